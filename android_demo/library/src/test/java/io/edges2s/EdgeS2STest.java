package io.edges2s;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNotEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.file.Files;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

public class EdgeS2STest {
    private static final SummaryOptions GREEDY = SummaryOptions.DEFAULT.numBeams(1);

    @Rule public final TemporaryFolder folder = new TemporaryFolder();

    private static EdgeS2S open() {
        return EdgeS2S.open(TestFiles.BUNDLE);
    }

    @Test
    public void summariesAreThoseOfPython() throws IOException {
        try (EdgeS2S model = EdgeS2S.open(TestFiles.BUNDLE, 2)) {
            for (String[] pair : TestFiles.textsAndSummaries()) {
                Summary summary = model.summarize(pair[0], null);
                assertEquals(pair[1], summary.text);
                assertEquals(Summary.DEVICE, summary.origin);
                assertFalse(summary.tokenLogprobs.isEmpty());
                assertTrue(summary.sourceTokens > 1);
                assertTrue(summary.timings.totalMs >= summary.timings.decodeMs + summary.timings.encodeMs);
            }
        }
    }

    @Test
    public void theWidestKernelsOfThisCpuAreUsed() {
        try (EdgeS2S model = open()) {
            assertEquals(System.getProperty("edge_s2s.isa"), model.isa());
        }
    }

    @Test
    public void aBundleInsideAFileIsUsedInPlace() throws IOException {
        byte[] bundle = Files.readAllBytes(TestFiles.BUNDLE.toPath());
        for (int offset : new int[] {0, 1, 4096, 70_001}) {
            File archive = folder.newFile();
            try (OutputStream out = new FileOutputStream(archive)) {
                out.write(new byte[offset]);
                out.write(bundle);
                out.write(new byte[100]);
            }
            EdgeS2S model;
            try (FileInputStream in = new FileInputStream(archive)) {
                model = EdgeS2S.open(TestFiles.descriptorOf(archive), offset, bundle.length, 1);
                assertTrue(in.available() > 0);
            }
            String[] pair = TestFiles.textsAndSummaries().get(0);
            assertEquals(pair[1], model.summarize(pair[0], null).text);
            model.close();
        }
    }

    @Test
    public void aPartThatTheFileDoesNotHaveIsRefused() throws IOException {
        try (FileInputStream in = new FileInputStream(TestFiles.BUNDLE)) {
            int fd = TestFiles.descriptorOf(TestFiles.BUNDLE);
            long size = in.getChannel().size();
            long[][] parts = {{0, size + 1}, {1, size}, {-1, 10}, {0, 0}, {0, -1}, {size, 1}, {Long.MAX_VALUE, 1}};
            for (long[] part : parts) {
                EdgeS2SException e =
                        assertThrows(EdgeS2SException.class, () -> EdgeS2S.open(fd, part[0], part[1], 1));
                assertEquals(EdgeS2SException.IO, e.status);
            }
        }
        assertThrows(EdgeS2SException.class, () -> EdgeS2S.open(-1, 0, 10, 1));
    }

    @Test
    public void piecesAddUpToTheSummary() throws IOException {
        int mostPieces = 0;
        try (EdgeS2S model = open()) {
            for (String[] pair : TestFiles.textsAndSummaries()) {
                for (int numBeams : new int[] {1, 4}) {
                    Pieces pieces = new Pieces();
                    SummaryOptions options = SummaryOptions.DEFAULT.numBeams(numBeams);
                    Summary summary = model.summarize(pair[0], options, new Cancellation(), pieces);
                    assertEquals(summary.text, pieces.text.toString());
                    assertFalse(pieces.replaced);
                    assertTrue(summary.timings.firstPieceMs <= summary.timings.totalMs);
                    mostPieces = Math.max(mostPieces, pieces.count);
                }
            }
        }
        assertTrue("the summaries came at once", mostPieces > 3);
    }

    @Test
    public void aCancelReturnsWhatIsThere() throws IOException {
        try (EdgeS2S model = open()) {
            String text = TestFiles.aText();
            Summary whole = model.summarize(text, GREEDY, new Cancellation(), null);
            Cancellation cancellation = new Cancellation();
            Pieces pieces =
                    new Pieces() {
                        @Override
                        public void onPiece(String piece) {
                            super.onPiece(piece);
                            cancellation.cancel();
                        }
                    };
            Summary part = model.summarize(text, GREEDY, cancellation, pieces);
            assertEquals(FinishReason.CANCELLED, part.finishReason);
            assertTrue(part.tokenLogprobs.size() < whole.tokenLogprobs.size());
            assertEquals(whole.tokenLogprobs.subList(0, part.tokenLogprobs.size()), part.tokenLogprobs);
            assertEquals(part.text, pieces.text.toString());

            Summary nothing = model.summarize(text, GREEDY, cancellation, null); // it stays cancelled
            assertEquals(FinishReason.CANCELLED, nothing.finishReason);
            assertEquals("", nothing.text);
            assertEquals(whole.text, model.summarize(text, GREEDY, new Cancellation(), null).text);
        }
    }

    @Test
    public void aCancelThatOnlyTheCoreHasSeenSoFarIsNoDeadline() throws IOException {
        Cancellation cancellation = new Cancellation();
        cancellation.flag.putInt(0, 1); // as cancel() does first, in another thread
        try (EdgeS2S model = open()) {
            Summary summary = model.summarize(TestFiles.aText(), GREEDY, cancellation, null);
            assertEquals(FinishReason.CANCELLED, summary.finishReason);
        }
    }

    @Test
    public void aModelCancelsAllThatRuns() throws Exception {
        ExecutorService threads = Executors.newFixedThreadPool(3);
        try (EdgeS2S model = open()) {
            String text = TestFiles.aText();
            CountDownLatch allRun = new CountDownLatch(3);
            CountDownLatch cancelled = new CountDownLatch(1);
            List<Future<Summary>> results = new ArrayList<>();
            for (int i = 0; i < 3; i++) {
                Pieces pieces =
                        new Pieces() {
                            @Override
                            public void onPiece(String piece) {
                                allRun.countDown();
                                await(cancelled);
                            }
                        };
                results.add(threads.submit(() -> model.summarize(text, GREEDY, new Cancellation(), pieces)));
            }
            allRun.await();
            model.cancel();
            cancelled.countDown();
            for (Future<Summary> result : results) {
                assertEquals(FinishReason.CANCELLED, result.get().finishReason);
            }
            assertNotEquals(FinishReason.CANCELLED, model.summarize(text, null).finishReason);
        } finally {
            threads.shutdownNow();
        }
    }

    private static void await(CountDownLatch latch) {
        try {
            latch.await();
        } catch (InterruptedException e) {
            throw new AssertionError(e);
        }
    }

    @Test
    public void aDeadlineReturnsWhatIsThere() throws IOException {
        try (EdgeS2S model = open()) {
            Summary summary = model.summarize(TestFiles.aText(), GREEDY.deadlineMs(0), new Cancellation(), null);
            assertEquals(FinishReason.DEADLINE, summary.finishReason);
            assertEquals("", summary.text);
        }
    }

    @Test
    public void fewerTokensAreALength() throws IOException {
        try (EdgeS2S model = open()) {
            Summary summary = model.summarize(TestFiles.aText(), GREEDY.maxNewTokens(2), new Cancellation(), null);
            assertEquals(FinishReason.LENGTH, summary.finishReason);
            assertEquals(2, summary.tokenLogprobs.size());
        }
    }

    @Test
    public void whatAListenerThrowsArrives() throws IOException {
        try (EdgeS2S model = open()) {
            String text = TestFiles.aText();
            Pieces pieces =
                    new Pieces() {
                        @Override
                        public void onPiece(String piece) {
                            throw new UnsupportedOperationException("the view is gone");
                        }
                    };
            Exception e =
                    assertThrows(UnsupportedOperationException.class, () -> model.summarize(text, pieces));
            assertEquals("the view is gone", e.getMessage());
            assertFalse(model.summarize(text, null).text.isEmpty());
        }
    }

    @Test
    public void aClosedModelSaysSo() throws IOException {
        String text = TestFiles.aText();
        EdgeS2S model = open();
        model.close();
        model.close();
        assertThrows(IllegalStateException.class, () -> model.summarize(text, null));
        assertThrows(IllegalStateException.class, model::isa);
        model.cancel();
    }

    @Test
    public void aModelMayBeClosedWhileItSummarizes() throws IOException {
        EdgeS2S model = open();
        Pieces pieces =
                new Pieces() {
                    @Override
                    public void onPiece(String piece) {
                        super.onPiece(piece);
                        model.close();
                    }
                };
        Summary summary = model.summarize(TestFiles.aText(), GREEDY, new Cancellation(), pieces);
        assertEquals(FinishReason.CANCELLED, summary.finishReason);
        assertEquals(summary.text, pieces.text.toString());
        assertThrows(IllegalStateException.class, () -> model.summarize("a text", null));
    }

    @Test
    public void wrongArgumentsAreRefused() throws IOException {
        assertThrows(IllegalArgumentException.class, () -> EdgeS2S.open(TestFiles.BUNDLE, 0));
        assertThrows(IllegalArgumentException.class, () -> SummaryOptions.DEFAULT.numBeams(0));
        assertThrows(IllegalArgumentException.class, () -> SummaryOptions.DEFAULT.deadlineMs(-1));
        EdgeS2SException missing =
                assertThrows(EdgeS2SException.class, () -> EdgeS2S.open(new File("no such ä.es2s")));
        assertEquals(EdgeS2SException.IO, missing.status);
        assertTrue(missing.getMessage(), missing.getMessage().contains("no such ä.es2s"));
        try (EdgeS2S model = open()) {
            assertThrows(IllegalArgumentException.class, () -> model.summarize(" \n", null));
            String text = TestFiles.aText();
            for (SummaryOptions options : new SummaryOptions[] {GREEDY.maxNewTokens(100_000), GREEDY.numBeams(100_000)}) {
                assertThrows(
                        IllegalArgumentException.class,
                        () -> model.summarize(text, options, new Cancellation(), null));
            }
        }
    }

    @Test
    public void aTextThatIsTooLongSaysByHowMuch() {
        StringBuilder text = new StringBuilder();
        for (int i = 0; i < 20_000; i++) {
            text.append("word ");
        }
        try (EdgeS2S model = open()) {
            InputTooLongException e =
                    assertThrows(InputTooLongException.class, () -> model.summarize(text.toString(), null));
            assertEquals(model.maxSourceTokens(), e.maxTokens);
            assertTrue(e.tokens >= 20_000);
        }
    }

    @Test
    public void anyTextIsRead() {
        String[] texts = {"\ud83d\ude00", "\ud83d", "\ude00 x", "\u0000", "\u0000 a \u0000", "ä\u0308", "\u202e\ufeffx", "\uffff"};
        try (EdgeS2S model = open()) {
            for (String text : texts) {
                if (!text.trim().isEmpty()) {
                    Pieces pieces = new Pieces();
                    assertEquals(model.summarize(text, pieces).text, pieces.text.toString());
                }
            }
        }
    }

    @Test
    public void eightThreadsGetTheSameSummaries() throws Exception {
        ExecutorService threads = Executors.newFixedThreadPool(8);
        try (EdgeS2S model = EdgeS2S.open(TestFiles.BUNDLE, 2)) {
            List<String[]> pairs = TestFiles.textsAndSummaries();
            List<Future<String>> results = new ArrayList<>();
            for (int i = 0; i < 8 * pairs.size(); i++) {
                String text = pairs.get(i % pairs.size())[0];
                results.add(threads.submit(() -> model.summarize(text, new Pieces()).text));
            }
            for (int i = 0; i < results.size(); i++) {
                assertEquals(pairs.get(i % pairs.size())[1], results.get(i).get());
            }
        } finally {
            threads.shutdownNow();
        }
    }

    @Test
    public void aModelForWhichJavaHasNoRoomIsNotKept() throws IOException {
        try (FileInputStream in = new FileInputStream(TestFiles.BUNDLE)) {
            int fd = TestFiles.descriptorOf(TestFiles.BUNDLE);
            long size = in.getChannel().size();
            int failures = 0;
            EdgeS2S model = null;
            Object[] heap = filled(new Object[2]);
            for (int n = 0; model == null; n++) {
                for (int i = 0; i < n; i++) {
                    heap = (Object[]) heap[0];
                }
                try {
                    model = EdgeS2S.open(fd, 0, size, 1); // with a little more room each time
                } catch (OutOfMemoryError e) {
                    failures++;
                    heap = filled(heap);
                }
            }
            heap = null;
            model.close();
            assertTrue("there was room", failures > 0);
        }
        assertFalse(TestFiles.isMapped(TestFiles.BUNDLE));
    }

    /** A chain of objects that leaves no room for another one; the first of each is the one before. */
    private static Object[] filled(Object[] heap) {
        for (int size = 1 << 20; size > 0; size /= 2) {
            try {
                while (true) {
                    heap = new Object[] {heap, size == 1 ? null : new byte[size]};
                }
            } catch (OutOfMemoryError e) {
                // smaller ones may fit
            }
        }
        return heap;
    }

    @Test
    public void aThousandModelsLeaveNothingBehind() throws IOException {
        int rounds = Integer.getInteger("edge_s2s.rounds", 1000);
        int numThreads = Integer.getInteger("edge_s2s.threads", 2);
        File wrong = TestFiles.file("truncated.es2s");
        try (FileInputStream in = new FileInputStream(TestFiles.BUNDLE)) {
            int fd = TestFiles.descriptorOf(TestFiles.BUNDLE);
            long size = in.getChannel().size();
            long kib = 0;
            int descriptors = 0;
            for (int i = 0; i < rounds; i++) {
                if (i == rounds / 4) { // the heap has its size by now
                    kib = TestFiles.residentKib();
                    descriptors = TestFiles.countDescriptors();
                }
                try (EdgeS2S model = i % 2 == 0 ? open() : EdgeS2S.open(fd, 0, size, numThreads)) {
                    model.isa();
                    if (i % 20 == 0) {
                        model.summarize("a text", GREEDY.maxNewTokens(4), new Cancellation(), new Pieces());
                    }
                }
                assertThrows(BundleException.class, () -> EdgeS2S.open(wrong));
            }
            assertEquals(descriptors, TestFiles.countDescriptors());
            long grown = TestFiles.residentKib() - kib;
            assertTrue(grown + " KiB more", grown < 16384); // the tiny bundle left mapped in each round: 180 MB
        }
    }
}
