package io.edges2s.hybrid;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import io.edges2s.Cancellation;
import io.edges2s.EdgeS2S;
import io.edges2s.FinishReason;
import io.edges2s.InputTooLongException;
import io.edges2s.Summary;
import io.edges2s.SummaryListener;
import io.edges2s.SummaryOptions;
import io.edges2s.hybrid.Policy.Mode;
import io.edges2s.hybrid.Policy.Privacy;
import java.io.File;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import org.junit.After;
import org.junit.Before;
import org.junit.Test;

public class HybridSummarizerTest {
    private static final String TEXT = "We meet at six, at the station.";
    private static final SummaryOptions CUT = SummaryOptions.DEFAULT.numBeams(1).maxNewTokens(2); // is incomplete

    private final List<String> sent = new ArrayList<>();
    private final List<String> shown = new ArrayList<>();
    private EdgeS2S model;

    @Before
    public void open() {
        model = EdgeS2S.open(new File(System.getProperty("edge_s2s.files"), "bundle.es2s"));
    }

    @After
    public void close() {
        model.close();
    }

    private String cloud(String text) {
        sent.add(text);
        return "From the cloud: " + text;
    }

    private final SummaryListener listener =
            new SummaryListener() {
                @Override
                public void onPiece(String piece) {
                    shown.add(piece);
                }

                @Override
                public void onReplace(String text) {
                    shown.clear();
                    shown.add(text);
                }
            };

    private Summary summarize(Mode mode, Privacy privacy, String text) throws CloudException {
        return new HybridSummarizer(model, this::cloud, new Policy(mode, privacy), null, null)
                .summarize(text, CUT, new Cancellation(), listener);
    }

    @Test
    public void namesAreThoseOfPython() {
        assertEquals(System.getProperty("edge_s2s.modes"), Arrays.toString(Mode.values()));
        assertEquals(System.getProperty("edge_s2s.privacies"), Arrays.toString(Privacy.values()));
        assertEquals(
                System.getProperty("edge_s2s.limits"),
                Policy.LOW_MEAN_LOGPROB + " " + Policy.MAX_UNLIKELY_TOKENS);
        assertEquals("[eos, length, deadline, cancelled]", Arrays.toString(FinishReason.values()));
    }

    @Test
    public void byDefaultNothingLeavesTheDevice() throws CloudException {
        assertEquals(Mode.PREFER_ON_DEVICE, Policy.DEFAULT.mode);
        for (Mode mode : new Mode[] {Mode.PREFER_ON_DEVICE, Mode.PREFER_IN_CLOUD}) {
            Summary summary = summarize(mode, Policy.DEFAULT.privacy, TEXT);
            assertEquals(Summary.DEVICE, summary.origin);
            assertTrue(summary.reasons.toString(), summary.reasons.contains("cloud_privacy"));
        }
        CloudException e =
                assertThrows(CloudException.class, () -> summarize(Mode.ONLY_IN_CLOUD, Privacy.NEVER, TEXT));
        assertEquals("privacy", e.reason);
        assertTrue(sent.isEmpty());
    }

    @Test
    public void aDoubtfulDraftIsReplaced() throws CloudException {
        Summary summary = summarize(Mode.PREFER_ON_DEVICE, Privacy.ALLOW, TEXT);
        assertEquals(Summary.CLOUD, summary.origin);
        assertTrue(summary.reasons.contains("incomplete"));
        assertEquals("From the cloud: " + TEXT, summary.text);
        assertEquals(Collections.singletonList(summary.text), shown);
    }

    @Test
    public void onlyOnDeviceAsksNobody() throws CloudException {
        Summary summary = summarize(Mode.ONLY_ON_DEVICE, Privacy.ALLOW, TEXT);
        assertEquals(Summary.DEVICE, summary.origin);
        assertTrue(summary.reasons.contains("incomplete"));
        assertTrue(sent.isEmpty());
    }

    @Test
    public void aCloudModeAsksFirst() throws CloudException {
        for (Mode mode : new Mode[] {Mode.PREFER_IN_CLOUD, Mode.ONLY_IN_CLOUD}) {
            Summary summary = summarize(mode, Privacy.ALLOW, TEXT);
            assertEquals(Summary.CLOUD, summary.origin);
            assertEquals(Collections.singletonList("mode"), summary.reasons);
        }
    }

    @Test
    public void theLocalAnswerIsTheFloor() throws CloudException {
        Cloud broken =
                text -> {
                    throw new CloudException("timeout", "too late");
                };
        Policy policy = new Policy(Mode.PREFER_IN_CLOUD, Privacy.ALLOW);
        Summary summary =
                new HybridSummarizer(model, broken, policy, null, null)
                        .summarize(TEXT, CUT, new Cancellation(), listener);
        assertEquals(Summary.DEVICE, summary.origin);
        assertEquals(Arrays.asList("mode", "cloud_timeout"), summary.reasons);
    }

    @Test
    public void whatAnAppsCloudThrowsDoesNotCostTheDraft() throws CloudException {
        RuntimeException mistake = new IllegalStateException("the client is closed");
        Cloud broken =
                text -> {
                    throw mistake;
                };
        for (Cloud cloud : new Cloud[] {broken, text -> null}) {
            for (Mode mode : new Mode[] {Mode.PREFER_ON_DEVICE, Mode.PREFER_IN_CLOUD}) {
                shown.clear();
                Summary summary =
                        new HybridSummarizer(model, cloud, new Policy(mode, Privacy.ALLOW), null, null)
                                .summarize(TEXT, CUT, new Cancellation(), listener);
                assertEquals(Summary.DEVICE, summary.origin);
                assertEquals(summary.text, String.join("", shown));
                String reason = cloud == broken ? "cloud_exception" : "cloud_invalid_response";
                assertTrue(summary.reasons.toString(), summary.reasons.contains(reason));
            }
        }
        Policy only = new Policy(Mode.ONLY_IN_CLOUD, Privacy.ALLOW);
        CloudException e =
                assertThrows(
                        CloudException.class,
                        () ->
                                new HybridSummarizer(model, broken, only, null, null)
                                        .summarize(TEXT, CUT, new Cancellation(), null));
        assertEquals(mistake, e.getCause());
    }

    @Test
    public void aTextThatIsTooLongIsOneForTheCloud() throws CloudException {
        String text = String.join(" ", Collections.nCopies(20_000, "word"));
        Summary summary = summarize(Mode.PREFER_ON_DEVICE, Privacy.ALLOW, text);
        assertEquals(Collections.singletonList("too_long"), summary.reasons);
        assertThrows(InputTooLongException.class, () -> summarize(Mode.PREFER_ON_DEVICE, Privacy.NEVER, text));
    }

    @Test
    public void theUserIsAsked() throws CloudException {
        Policy policy = new Policy(Mode.PREFER_ON_DEVICE, Privacy.ASK);
        for (boolean agrees : new boolean[] {false, true}) {
            Summary summary =
                    new HybridSummarizer(model, this::cloud, policy, text -> agrees, null)
                            .summarize(TEXT, CUT, new Cancellation(), null);
            assertEquals(agrees ? Summary.CLOUD : Summary.DEVICE, summary.origin);
        }
        assertEquals(1, sent.size());
    }

    @Test
    public void redactedNeedsWhatRedacts() throws CloudException {
        assertTrue(summarize(Mode.PREFER_ON_DEVICE, Privacy.REDACTED, TEXT).reasons.contains("cloud_privacy"));
        assertTrue(sent.isEmpty());
        Redactor redactor =
                text ->
                        new Redactor.Redacted() {
                            @Override
                            public String text() {
                                return text.replace("station", "<PLACE_1>");
                            }

                            @Override
                            public String restore(String answer) {
                                return answer.replace("<PLACE_1>", "station");
                            }
                        };
        Summary summary =
                new HybridSummarizer(
                                model, this::cloud, new Policy(Mode.PREFER_ON_DEVICE, Privacy.REDACTED), null, redactor)
                        .summarize(TEXT, CUT, new Cancellation(), null);
        assertEquals(Collections.singletonList(TEXT.replace("station", "<PLACE_1>")), sent);
        assertEquals("From the cloud: " + TEXT, summary.text);
    }

    @Test
    public void aCancelledDraftIsNotSent() throws CloudException {
        Cancellation cancellation = new Cancellation();
        cancellation.cancel();
        Summary summary =
                new HybridSummarizer(
                                model, this::cloud, new Policy(Mode.PREFER_ON_DEVICE, Privacy.ALLOW), null, null)
                        .summarize(TEXT, CUT, cancellation, null);
        assertEquals(FinishReason.CANCELLED, summary.finishReason);
        assertTrue(sent.isEmpty());
    }

    @Test
    public void aCancelledTextIsNotSentByACloudModeEither() throws CloudException {
        Cancellation cancellation = new Cancellation();
        cancellation.cancel();
        Policy prefer = new Policy(Mode.PREFER_IN_CLOUD, Privacy.ALLOW);
        Summary summary =
                new HybridSummarizer(model, this::cloud, prefer, null, null)
                        .summarize(TEXT, CUT, cancellation, null);
        assertEquals(FinishReason.CANCELLED, summary.finishReason);
        assertEquals(Arrays.asList("mode", "cloud_cancelled"), summary.reasons);
        Policy only = new Policy(Mode.ONLY_IN_CLOUD, Privacy.ALLOW);
        CloudException e =
                assertThrows(
                        CloudException.class,
                        () ->
                                new HybridSummarizer(model, this::cloud, only, null, null)
                                        .summarize(TEXT, CUT, cancellation, null));
        assertEquals("cancelled", e.reason);
        assertTrue(sent.isEmpty());
    }

    @Test
    public void aCancelWhileTheUserIsAskedCountsMoreThanTheAnswer() throws CloudException {
        Cancellation cancellation = new Cancellation();
        Consent consent =
                text -> {
                    cancellation.cancel();
                    return true;
                };
        Summary summary =
                new HybridSummarizer(
                                model, this::cloud, new Policy(Mode.PREFER_ON_DEVICE, Privacy.ASK), consent, null)
                        .summarize(TEXT, CUT, cancellation, null);
        assertEquals(Summary.DEVICE, summary.origin);
        assertTrue(summary.reasons.toString(), summary.reasons.contains("cloud_cancelled"));
        assertTrue(sent.isEmpty());
    }

    @Test
    public void doubtsAreThoseOfPython() {
        assertEquals(Collections.emptyList(), doubts(FinishReason.EOS, -0.1f, -3.1f, -0.1f, -0.1f));
        assertEquals(Collections.singletonList("unlikely_tokens"), doubts(FinishReason.EOS, -3f, -3f, 0f, 0f, 0f, 0f, 0f));
        assertEquals(Collections.singletonList("low_probability"), doubts(FinishReason.EOS, -1.1f, -1.1f));
        assertEquals(Collections.singletonList("incomplete"), doubts(FinishReason.LENGTH, -0.1f));
    }

    private static List<String> doubts(FinishReason reason, Float... logprobs) {
        Summary.Timings timings = new Summary.Timings(0, 0, 0, 0);
        List<String> none = Collections.emptyList();
        return Policy.doubts(new Summary("", Summary.DEVICE, reason, none, 1, Arrays.asList(logprobs), timings));
    }
}
