package io.edges2s.demo;

import android.content.Context;
import io.edges2s.Availability;
import io.edges2s.BundleSource;
import io.edges2s.BundleStore;
import io.edges2s.Cancellation;
import io.edges2s.DownloadListener;
import io.edges2s.EdgeS2S;
import io.edges2s.android.AssetBundles;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.util.Arrays;

/** The app's model: the bundle that ships with it, else the one that it downloads. It is opened once for the process. */
final class SharedModel {
    static final String ASSET = "summarizer.es2s";

    private static final int NUM_THREADS = Math.max(1, Math.min(4, Runtime.getRuntime().availableProcessors() / 2));

    private static EdgeS2S model;

    private SharedModel() {}

    static Availability availability(Context context) throws IOException {
        if (hasAsset(context)) {
            return EdgeS2S.isSupported() ? Availability.AVAILABLE : Availability.UNAVAILABLE;
        }
        return BuildConfig.BUNDLE_URL.isEmpty() ? Availability.UNAVAILABLE : store(context).availability();
    }

    static void download(Context context, DownloadListener listener, Cancellation cancellation) throws IOException {
        store(context).download(listener, cancellation);
    }

    /** Blocks while the bundle's hashes are compared. */
    static synchronized EdgeS2S open(Context context) throws IOException {
        if (model == null) {
            if (hasAsset(context)) {
                model = AssetBundles.open(context, ASSET, NUM_THREADS);
            } else if (availability(context) == Availability.AVAILABLE) {
                model = EdgeS2S.open(store(context).file(), NUM_THREADS);
            } else {
                throw new FileNotFoundException("there is no bundle yet");
            }
        }
        return model;
    }

    private static boolean hasAsset(Context context) throws IOException {
        return Arrays.asList(context.getAssets().list("")).contains(ASSET);
    }

    private static BundleStore store;

    private static synchronized BundleStore store(Context context) {
        if (store == null) {
            BundleSource source =
                    new BundleSource(BuildConfig.BUNDLE_URL, BuildConfig.BUNDLE_SIZE, BuildConfig.BUNDLE_SHA256);
            store = new BundleStore(context.getFilesDir(), source);
        }
        return store;
    }
}
