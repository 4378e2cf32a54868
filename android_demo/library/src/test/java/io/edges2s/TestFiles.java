package io.edges2s;

import java.io.File;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.ArrayList;
import java.util.List;

/**
 * What a run of the tests is about: the folder of the system property {@code edge_s2s.files}, as
 * {@code tests/android/test_java.py} fills it.
 */
final class TestFiles {
    private static final File FOLDER = new File(System.getProperty("edge_s2s.files", "."));

    /** A bundle with a native encoder. */
    static final File BUNDLE = new File(FOLDER, "bundle.es2s");

    private TestFiles() {}

    static File file(String name) {
        return new File(FOLDER, name);
    }

    static String read(File file) throws IOException {
        return new String(Files.readAllBytes(file.toPath()), StandardCharsets.UTF_8);
    }

    /** Texts, and what Python's summaries of them are. */
    static List<String[]> textsAndSummaries() throws IOException {
        List<String[]> pairs = new ArrayList<>();
        for (int i = 0; file(i + ".text").exists(); i++) {
            pairs.add(new String[] {read(file(i + ".text")), read(file(i + ".summary"))});
        }
        if (pairs.isEmpty()) {
            throw new IOException("there are no texts in " + FOLDER);
        }
        return pairs;
    }

    static String aText() throws IOException {
        return textsAndSummaries().get(0)[0];
    }

    /** The descriptor of a file that this process has open, which Java does not tell and Linux does. */
    static int descriptorOf(File file) throws IOException {
        for (File link : new File("/proc/self/fd").listFiles()) {
            try {
                if (link.getCanonicalFile().equals(file.getCanonicalFile())) {
                    return Integer.parseInt(link.getName());
                }
            } catch (IOException e) {
                // the descriptor by which the folder was listed is closed by now
            }
        }
        throw new IOException(file + " is not open");
    }

    static int countDescriptors() {
        return new File("/proc/self/fd").list().length;
    }

    /** Whether this process has pages of a file. */
    static boolean isMapped(File file) throws IOException {
        for (String line : Files.readAllLines(new File("/proc/self/maps").toPath())) {
            if (line.endsWith(file.getCanonicalPath())) {
                return true;
            }
        }
        return false;
    }

    /** Resident memory of this process. */
    static long residentKib() throws IOException {
        for (String line : Files.readAllLines(new File("/proc/self/status").toPath())) {
            if (line.startsWith("VmRSS:")) {
                return Long.parseLong(line.replaceAll("\\D", ""));
            }
        }
        throw new IOException("no VmRSS");
    }
}
