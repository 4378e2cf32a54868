package io.edges2s.hybrid;

import io.edges2s.Cancellation;
import io.edges2s.EdgeS2S;
import io.edges2s.FinishReason;
import io.edges2s.InputTooLongException;
import io.edges2s.Summary;
import io.edges2s.SummaryListener;
import io.edges2s.SummaryOptions;
import io.edges2s.hybrid.Policy.Mode;
import io.edges2s.hybrid.Policy.Privacy;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/**
 * A model whose answers the cloud may better, as far as the policy allows. The local answer is the floor: it streams at
 * once, and whatever the network does, it is there.
 */
public final class HybridSummarizer {
    private final EdgeS2S model;
    private final Cloud cloud;
    private final Policy policy;
    private final Consent consent;
    private final Redactor redactor;

    /** {@code cloud}, {@code consent} and {@code redactor} may be null: then nothing is sent that needs them. */
    public HybridSummarizer(EdgeS2S model, Cloud cloud, Policy policy, Consent consent, Redactor redactor) {
        this.model = model;
        this.cloud = cloud;
        this.policy = policy;
        this.consent = consent;
        this.redactor = redactor;
    }

    /**
     * The best there is, with {@link Summary#origin} and {@link Summary#reasons}.
     *
     * <p>After {@code cancellation} nothing is sent; an answer that is on its way is still waited for.
     *
     * @throws CloudException in {@code only_in_cloud}, where only the cloud could have answered
     * @throws InputTooLongException for a text that the model cannot read and the cloud did not
     */
    public Summary summarize(
            String text, SummaryOptions options, Cancellation cancellation, SummaryListener listener)
            throws CloudException {
        List<String> reasons = new ArrayList<>();
        if (policy.mode == Mode.PREFER_IN_CLOUD || policy.mode == Mode.ONLY_IN_CLOUD) {
            reasons.add("mode");
            try {
                return ask(text, reasons, cancellation, listener);
            } catch (CloudException e) {
                if (policy.mode == Mode.ONLY_IN_CLOUD) {
                    throw e;
                }
                reasons.add("cloud_" + e.reason);
            }
            return model.summarize(text, options, cancellation, listener).withReasons(reasons);
        }
        Summary draft = null;
        InputTooLongException tooLong = null;
        try {
            draft = model.summarize(text, options, cancellation, listener);
            reasons.addAll(Policy.doubts(draft));
        } catch (InputTooLongException e) {
            tooLong = e;
            reasons.add("too_long");
        }
        boolean isWanted = !reasons.isEmpty() && policy.mode != Mode.ONLY_ON_DEVICE;
        if (isWanted && !cancellation.isCancelled()) {
            try {
                return ask(text, reasons, cancellation, listener);
            } catch (CloudException e) {
                reasons.add("cloud_" + e.reason);
            }
        }
        if (draft == null) {
            throw tooLong;
        }
        return draft.withReasons(reasons);
    }

    private Summary ask(String text, List<String> reasons, Cancellation cancellation, SummaryListener listener)
            throws CloudException {
        long start = System.nanoTime();
        String answer;
        try {
            answer = answer(text, cancellation);
        } catch (RuntimeException e) { // of the app's cloud, consent or redactor: it must not cost the local answer
            throw new CloudException("exception", e.toString(), e);
        }
        if (listener != null) {
            listener.onReplace(answer);
        }
        double ms = (System.nanoTime() - start) / 1e6;
        Summary.Timings timings = new Summary.Timings(0, 0, ms, ms);
        List<Float> none = Collections.emptyList();
        return new Summary(answer, Summary.CLOUD, FinishReason.EOS, reasons, 0, none, timings);
    }

    /** Permission first: without it no name is looked up. */
    private String answer(String text, Cancellation cancellation) throws CloudException {
        if (cloud == null) {
            throw new CloudException("mode", "there is no endpoint");
        }
        if (policy.privacy == Privacy.NEVER) {
            throw new CloudException("privacy", "the policy lets no text leave the device");
        }
        if (policy.privacy == Privacy.ASK && (consent == null || !consent.maySend(text))) {
            throw new CloudException("privacy", "the user did not agree");
        }
        if (policy.privacy == Privacy.REDACTED) {
            if (redactor == null) {
                throw new CloudException("privacy", "there is nothing that redacts");
            }
            Redactor.Redacted redacted = redactor.redact(text);
            return redacted.restore(send(redacted.text(), cancellation));
        }
        return send(text, cancellation);
    }

    /** The last moment for a cancel, which may have come while the user was asked. */
    private String send(String text, Cancellation cancellation) throws CloudException {
        if (cancellation.isCancelled()) {
            throw new CloudException("cancelled", "the call was cancelled before its text was sent");
        }
        String answer = cloud.summarize(text);
        if (answer == null) {
            throw new CloudException("invalid_response", "the answer is null");
        }
        return answer;
    }
}
