package io.edges2s.demo;

import android.app.Activity;
import android.app.AlertDialog;
import android.content.Intent;
import android.os.Bundle;
import android.text.TextUtils;
import android.widget.ArrayAdapter;
import android.widget.Button;
import android.widget.EditText;
import android.widget.Spinner;
import android.widget.TextView;
import io.edges2s.Availability;
import io.edges2s.Cancellation;
import io.edges2s.Summary;
import io.edges2s.SummaryListener;
import io.edges2s.SummaryOptions;
import io.edges2s.hybrid.Cloud;
import io.edges2s.hybrid.CloudException;
import io.edges2s.hybrid.HybridSummarizer;
import io.edges2s.hybrid.Policy;
import java.io.IOException;
import java.util.concurrent.ArrayBlockingQueue;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;

/** One screen: a text, its summary as it is written, and what it cost. */
public final class MainActivity extends Activity {
    /** The app has nothing that redacts, so the user is not offered it. */
    private static final Policy.Privacy[] PRIVACIES = {
        Policy.Privacy.NEVER, Policy.Privacy.ASK, Policy.Privacy.ALLOW
    };

    private final ExecutorService worker = Executors.newSingleThreadExecutor();
    private EditText text;
    private EditText endpoint;
    private Spinner privacy;
    private Button action;
    private TextView summary;
    private TextView status;
    private Cancellation running = new Cancellation();

    @Override
    protected void onCreate(Bundle saved) {
        super.onCreate(saved);
        setContentView(R.layout.main);
        text = findViewById(R.id.text);
        endpoint = findViewById(R.id.endpoint);
        privacy = findViewById(R.id.privacy);
        action = findViewById(R.id.action);
        summary = findViewById(R.id.summary);
        status = findViewById(R.id.status);
        privacy.setAdapter(new ArrayAdapter<>(this, android.R.layout.simple_spinner_dropdown_item, PRIVACIES));
        showAvailability();
        if (saved == null) { // else an earlier screen has taken it
            take(getIntent());
        }
    }

    @Override
    protected void onNewIntent(Intent intent) {
        super.onNewIntent(intent);
        take(intent);
    }

    /** A text that another app has shared is summarized at once, if there is a model. */
    private void take(Intent intent) {
        String shared = intent.getStringExtra(Intent.EXTRA_TEXT);
        if (Intent.ACTION_SEND.equals(intent.getAction()) && shared != null) {
            text.setText(shared);
            if (availability() == Availability.AVAILABLE) {
                summarize();
            }
        }
    }

    @Override
    protected void onDestroy() {
        running.cancel();
        worker.shutdown();
        super.onDestroy();
    }

    private Availability availability() {
        try {
            return SharedModel.availability(this);
        } catch (IOException | IllegalArgumentException e) {
            return Availability.UNAVAILABLE;
        }
    }

    private void showAvailability() {
        Availability availability = availability();
        action.setEnabled(availability != Availability.UNAVAILABLE);
        if (availability == Availability.AVAILABLE) {
            offer(R.string.summarize, this::summarize);
            status.setText(R.string.ready);
        } else if (availability == Availability.UNAVAILABLE) {
            status.setText(R.string.unavailable);
        } else {
            offer(R.string.summarize, this::download);
            action.setText(getString(R.string.download, BuildConfig.BUNDLE_SIZE / 1_000_000));
        }
    }

    private void offer(int label, Runnable run) {
        action.setText(label);
        action.setOnClickListener(view -> run.run());
    }

    private Cancellation begin() {
        running.cancel();
        Cancellation cancellation = new Cancellation();
        running = cancellation;
        offer(R.string.cancel, cancellation::cancel);
        return cancellation;
    }

    private void download() {
        Cancellation cancellation = begin();
        worker.execute(
                () -> {
                    try {
                        SharedModel.download(
                                getApplicationContext(),
                                (done, total) ->
                                        show(cancellation, getString(R.string.downloading, 100 * done / total)),
                                cancellation);
                        update(cancellation, this::showAvailability);
                    } catch (IOException e) {
                        update(cancellation, this::showAvailability);
                        show(cancellation, e.getMessage());
                    }
                });
    }

    private void summarize() {
        Cancellation cancellation = begin();
        String given = text.getText().toString();
        String url = endpoint.getText().toString().trim();
        Policy policy = new Policy(Policy.Mode.PREFER_ON_DEVICE, (Policy.Privacy) privacy.getSelectedItem());
        Cloud cloud = url.startsWith("https://") ? new GenerateEndpoint(url) : null;
        SummaryListener listener =
                new SummaryListener() {
                    @Override
                    public void onPiece(String piece) {
                        update(cancellation, () -> summary.append(piece));
                    }

                    @Override
                    public void onReplace(String all) {
                        update(cancellation, () -> summary.setText(all));
                    }
                };
        summary.setText("");
        status.setText("");
        worker.execute(
                () -> {
                    try {
                        HybridSummarizer hybrid =
                                new HybridSummarizer(
                                        SharedModel.open(getApplicationContext()),
                                        cloud,
                                        policy,
                                        sent -> maySend(url, cancellation),
                                        null);
                        Summary result = hybrid.summarize(given, SummaryOptions.DEFAULT, cancellation, listener);
                        show(cancellation, describe(result));
                    } catch (IOException | CloudException | RuntimeException e) {
                        show(cancellation, String.valueOf(e.getMessage()));
                    }
                    update(cancellation, () -> offer(R.string.summarize, this::summarize));
                });
    }

    /** Asks in the thread of the views, waits in this one. */
    private boolean maySend(String url, Cancellation cancellation) {
        BlockingQueue<Boolean> answer = new ArrayBlockingQueue<>(1);
        runOnUiThread(
                () -> {
                    if (isFinishing() || isDestroyed()) {
                        answer.offer(false);
                        return;
                    }
                    new AlertDialog.Builder(this)
                            .setMessage(getString(R.string.may_send, url))
                            .setPositiveButton(R.string.send, (dialog, which) -> answer.offer(true))
                            .setNegativeButton(R.string.keep, (dialog, which) -> answer.offer(false))
                            .setOnCancelListener(dialog -> answer.offer(false))
                            .show();
                });
        try {
            Boolean agrees = null;
            while (agrees == null && !cancellation.isCancelled()) {
                agrees = answer.poll(200, TimeUnit.MILLISECONDS);
            }
            return Boolean.TRUE.equals(agrees);
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            return false;
        }
    }

    private String describe(Summary result) {
        return getString(
                R.string.result,
                result.origin,
                result.timings.totalMs,
                result.timings.firstPieceMs,
                result.tokenLogprobs.size(),
                result.tokensPerSecond(),
                result.reasons.isEmpty() ? String.valueOf(result.finishReason) : TextUtils.join(", ", result.reasons));
    }

    private void show(Cancellation run, String message) {
        update(run, () -> status.setText(message));
    }

    /** Changes the screen, unless another run has begun meanwhile: it is that one's since. */
    private void update(Cancellation run, Runnable change) {
        runOnUiThread(
                () -> {
                    if (run == running) {
                        change.run();
                    }
                });
    }
}
