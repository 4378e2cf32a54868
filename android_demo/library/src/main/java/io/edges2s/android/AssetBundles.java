package io.edges2s.android;

import android.content.Context;
import android.content.res.AssetFileDescriptor;
import io.edges2s.EdgeS2S;
import java.io.IOException;

/** Bundles that ship inside an app. */
public final class AssetBundles {
    private AssetBundles() {}

    /**
     * Opens an asset in place: its pages are read from the APK as they are needed, and no copy is made. The app's build
     * has to store it uncompressed: {@code androidResources { noCompress += "es2s" }}.
     *
     * @throws IOException if there is no such asset, or if it is compressed
     */
    public static EdgeS2S open(Context context, String asset, int numThreads) throws IOException {
        try (AssetFileDescriptor part = context.getAssets().openFd(asset)) {
            int fd = part.getParcelFileDescriptor().getFd();
            return EdgeS2S.open(fd, part.getStartOffset(), part.getLength(), numThreads);
        }
    }
}
