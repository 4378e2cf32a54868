package io.edges2s;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import io.edges2s.DownloadException.Reason;
import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Random;
import org.junit.After;
import org.junit.Before;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** Downloads from a real server on this machine. */
public class BundleStoreTest {
    @Rule public final TemporaryFolder folder = new TemporaryFolder();

    private final byte[] bytes = randomBytes(300_000, 1);
    private FileServer server;

    @Before
    public void startServer() throws IOException {
        server = new FileServer(bytes);
    }

    @After
    public void stopServer() throws IOException {
        server.close();
    }

    private static byte[] randomBytes(int n, int seed) {
        byte[] bytes = new byte[n];
        new Random(seed).nextBytes(bytes);
        return bytes;
    }

    private static String sha256(byte[] bytes) throws Exception {
        StringBuilder hex = new StringBuilder();
        for (byte b : MessageDigest.getInstance("SHA-256").digest(bytes)) {
            hex.append(String.format("%02x", b));
        }
        return hex.toString();
    }

    private BundleStore store(byte[] expected) throws Exception {
        return new BundleStore(folder.getRoot(), new BundleSource(server.url(), expected.length, sha256(expected)));
    }

    private static void download(BundleStore store) throws DownloadException {
        store.download(null, new Cancellation());
    }

    private Reason failure(BundleStore store) {
        return assertThrows(DownloadException.class, () -> download(store)).reason;
    }

    private File part(BundleStore store) {
        return new File(store.file().getPath() + ".part");
    }

    private void assertComplete(BundleStore store) throws IOException {
        assertEquals(Availability.AVAILABLE, store.availability());
        assertArrayEquals(bytes, Files.readAllBytes(store.file().toPath()));
        assertArrayEquals(new String[] {store.file().getName()}, folder.getRoot().list());
    }

    @Test
    public void aBundleIsDownloadableThenDownloadingThenAvailable() throws Exception {
        BundleStore store = store(bytes);
        assertEquals(Availability.DOWNLOADABLE, store.availability());
        List<Long> done = new ArrayList<>();
        List<Availability> states = new ArrayList<>();
        store.download(
                (doneBytes, totalBytes) -> {
                    assertEquals(bytes.length, totalBytes);
                    done.add(doneBytes);
                    states.add(store.availability());
                },
                new Cancellation());
        assertEquals(Collections.singleton(Availability.DOWNLOADING), new java.util.HashSet<>(states));
        assertEquals(bytes.length, (long) done.get(done.size() - 1));
        assertComplete(store);
        download(store); // asks nobody
        assertEquals(1, server.ranges.size());
    }

    @Test
    public void aBrokenConnectionGoesOnWhereItBroke() throws Exception {
        server.breaksAfter = 100_001;
        BundleStore store = store(bytes);
        download(store);
        assertEquals(Arrays.asList("", "bytes=100001-", "bytes=200002-"), server.ranges);
        assertComplete(store);
    }

    @Test
    public void anotherProcessGoesOnToo() throws Exception {
        Cancellation cancellation = new Cancellation();
        BundleStore first = store(bytes);
        DownloadException e =
                assertThrows(
                        DownloadException.class,
                        () -> first.download((done, total) -> cancellation.cancel(), cancellation));
        assertEquals(Reason.CANCELLED, e.reason);
        long have = part(first).length();
        assertTrue(have > 0 && have < bytes.length);
        assertEquals(Availability.DOWNLOADABLE, first.availability());
        BundleStore second = store(bytes);
        List<Long> done = new ArrayList<>();
        second.download((doneBytes, totalBytes) -> done.add(doneBytes), new Cancellation());
        assertEquals(Arrays.asList("", "bytes=" + have + "-"), server.ranges);
        assertTrue(done.get(0) > have);
        assertComplete(second);
    }

    @Test
    public void aFileThatChangesMeanwhileIsNotMixed() throws Exception {
        BundleStore store = store(bytes);
        byte[] old = randomBytes(bytes.length, 2);
        server.file = old;
        server.breaksAfter = 50_000;
        Cancellation cancellation = new Cancellation();
        assertThrows(
                DownloadException.class,
                () -> store.download((done, total) -> cancellation.cancel(), cancellation));
        assertTrue(part(store).length() > 0);
        server.file = bytes;
        server.etag = "\"2\"";
        server.breaksAfter = -1;
        download(store);
        assertComplete(store);
    }

    @Test
    public void aServerWithoutRangesOrTagsSendsAllAgain() throws Exception {
        server.knowsRanges = false;
        server.etag = "";
        server.breaksAfter = 100_001;
        BundleStore store = store(bytes);
        assertEquals(Reason.NETWORK, failure(store));
        server.breaksAfter = -1;
        download(store);
        assertComplete(store);
    }

    @Test
    public void aWrongHashLeavesNothing() throws Exception {
        server.file = randomBytes(bytes.length, 3);
        BundleStore store = store(bytes);
        assertEquals(Reason.WRONG_FILE, failure(store));
        assertEquals(0, folder.getRoot().list().length);
        server.file = bytes;
        download(store);
        assertComplete(store);
    }

    @Test
    public void aFileOfAnotherSizeIsRefusedBeforeItIsRead() throws Exception {
        server.file = randomBytes(bytes.length + 1, 1);
        BundleStore store = store(bytes);
        assertEquals(Reason.WRONG_FILE, failure(store));
        assertFalse(part(store).exists());
    }

    @Test
    public void aRangeOfAFileOfAnotherSizeIsRefused() throws Exception {
        BundleStore store = store(bytes);
        Files.write(part(store).toPath(), Arrays.copyOf(bytes, 1000));
        server.file = randomBytes(bytes.length + 1, 1); // under the same tag
        assertEquals(Reason.WRONG_FILE, failure(store));
        assertEquals(0, folder.getRoot().list().length);
    }

    @Test
    public void whatTheServerRefusesIsNotAskedAgain() throws Exception {
        server.status = 404;
        assertEquals(Reason.REFUSED, failure(store(bytes)));
        assertEquals(1, server.ranges.size());
    }

    @Test
    public void aServerThatIsBusyIsAskedFiveTimes() throws Exception {
        server.status = 503;
        assertEquals(Reason.NETWORK, failure(store(bytes)));
        assertEquals(5, server.ranges.size());
    }

    @Test
    public void aFullDiskIsStorage() throws Exception {
        BundleStore store = store(bytes);
        Files.createSymbolicLink(part(store).toPath(), new File("/dev/full").toPath());
        assertEquals(Reason.STORAGE, failure(store));
        assertFalse(store.file().exists());
    }

    @Test
    public void aFolderThatDoesNotExistIsMade() throws Exception {
        File models = new File(folder.getRoot(), "app/models");
        BundleStore store = new BundleStore(models, new BundleSource(server.url(), bytes.length, sha256(bytes)));
        assertEquals(Availability.DOWNLOADABLE, store.availability());
        assertFalse(models.exists());
        download(store);
        assertArrayEquals(bytes, Files.readAllBytes(store.file().toPath()));
    }

    @Test
    public void aBundleWithoutRoomIsUnavailable() throws Exception {
        BundleSource source = new BundleSource(server.url(), Long.MAX_VALUE / 2, sha256(bytes));
        BundleStore store = new BundleStore(folder.getRoot(), source);
        assertEquals(Availability.UNAVAILABLE, store.availability());
        assertEquals(Reason.STORAGE, failure(store));
        assertTrue(server.ranges.isEmpty());
    }

    @Test
    public void aSourceNamesWhatIsWrongWithIt() {
        String hash = String.join("", Collections.nCopies(64, "a"));
        assertThrows(IllegalArgumentException.class, () -> new BundleSource("no url", 1, hash));
        assertThrows(IllegalArgumentException.class, () -> new BundleSource("http://a/b", 0, hash));
        assertThrows(IllegalArgumentException.class, () -> new BundleSource("http://a/b", 1, "A" + hash.substring(1)));
    }
}
