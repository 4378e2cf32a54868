package io.edges2s;

import static org.junit.Assert.assertEquals;

import java.io.IOException;
import org.junit.Test;

public class DetokenizerTest {
    @Test
    public void whatMayChangeIsWhatPythonWaitsFor() throws IOException {
        String expected = TestFiles.read(TestFiles.file("may_change.txt"));
        try (EdgeS2S model = EdgeS2S.open(TestFiles.BUNDLE)) {
            StringBuilder found = new StringBuilder();
            for (int id = 0; id < expected.length(); id++) {
                found.append(model.detokenizer().mayChange(id) ? '1' : '0');
            }
            assertEquals(expected, found.toString());
        }
    }
}
