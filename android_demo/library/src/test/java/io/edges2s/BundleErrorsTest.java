package io.edges2s;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.FileInputStream;
import java.io.IOException;
import java.util.Arrays;
import org.junit.Test;

/** The bundles that {@code tests/android/test_java.py} has broken, and what C and Python say about them. */
public class BundleErrorsTest {
    @Test
    public void aBadBundleHasTheStatusOfCAndTheTypeOfPython() throws IOException {
        String[] lines = TestFiles.read(TestFiles.file("errors.tsv")).split("\n");
        for (String line : lines) {
            String[] cells = line.split("\t"); // name, status in C, type in Python
            int status = Integer.parseInt(cells[1]);
            BundleException byPath =
                    assertThrows(cells[0], BundleException.class, () -> EdgeS2S.open(TestFiles.file(cells[0])));
            assertEquals(cells[0], status, byPath.status);
            assertEquals(cells[0], cells[2], pythonName(byPath));
            try (FileInputStream in = new FileInputStream(TestFiles.file(cells[0]))) {
                int fd = TestFiles.descriptorOf(TestFiles.file(cells[0]));
                long size = in.getChannel().size();
                BundleException byFd =
                        assertThrows(cells[0], BundleException.class, () -> EdgeS2S.open(fd, 0, size, 1));
                assertEquals(byPath.getMessage(), byFd.getMessage());
                assertEquals(byPath.getClass(), byFd.getClass());
            }
        }
        assertTrue(Arrays.toString(lines), lines.length >= 8);
    }

    private static String pythonName(BundleException e) {
        return e.getClass().getSimpleName().replace("Exception", "Error");
    }
}
