package io.edges2s;

import java.io.BufferedReader;
import java.io.Closeable;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/** An HTTP server on this machine with one file, ranges, and the faults of a network. */
final class FileServer implements Closeable {
    volatile byte[] file;
    volatile String etag = "\"1\"";
    volatile boolean knowsRanges = true;

    /** Bytes of a body after which the connection breaks; -1 is never. */
    volatile int breaksAfter = -1;

    /** Answers with this status instead, if it is not 0. */
    volatile int status;

    /** The Range header of each request, or an empty text. */
    final List<String> ranges = Collections.synchronizedList(new ArrayList<>());

    private final ServerSocket socket = new ServerSocket(0, 50, InetAddress.getLoopbackAddress());

    FileServer(byte[] file) throws IOException {
        this.file = file;
        Thread thread = new Thread(this::serve);
        thread.setDaemon(true);
        thread.start();
    }

    String url() {
        return "http://127.0.0.1:" + socket.getLocalPort() + "/bundle.es2s";
    }

    private void serve() {
        while (true) {
            try (Socket client = socket.accept()) {
                answer(client);
            } catch (IOException e) {
                if (socket.isClosed()) {
                    return;
                }
            }
        }
    }

    private void answer(Socket client) throws IOException {
        BufferedReader in =
                new BufferedReader(new InputStreamReader(client.getInputStream(), StandardCharsets.ISO_8859_1));
        String range = "";
        String ifRange = etag;
        for (String line = in.readLine(); line != null && !line.isEmpty(); line = in.readLine()) {
            if (line.startsWith("Range: ")) {
                range = line.substring(7);
            } else if (line.startsWith("If-Range: ")) {
                ifRange = line.substring(10);
            }
        }
        ranges.add(range);
        OutputStream out = client.getOutputStream();
        if (status != 0) {
            out.write(("HTTP/1.1 " + status + " No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").getBytes());
            return;
        }
        boolean isPart = knowsRanges && !range.isEmpty() && ifRange.equals(etag);
        int start = isPart ? Integer.parseInt(range.replaceAll("\\D", "")) : 0;
        int n = file.length - start;
        String head =
                (isPart ? "HTTP/1.1 206 Part\r\nContent-Range: bytes " + start + "-" + (file.length - 1) + "/" + file.length
                                : "HTTP/1.1 200 OK")
                        + (etag.isEmpty() ? "" : "\r\nETag: " + etag)
                        + "\r\nContent-Length: " + n + "\r\nConnection: close\r\n\r\n";
        out.write(head.getBytes(StandardCharsets.ISO_8859_1));
        out.write(file, start, breaksAfter < 0 ? n : Math.min(n, breaksAfter));
        out.flush();
    }

    @Override
    public void close() throws IOException {
        socket.close();
    }
}
