package io.edges2s.demo;

import io.edges2s.hybrid.Cloud;
import io.edges2s.hybrid.CloudException;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.HttpURLConnection;
import java.net.SocketTimeoutException;
import java.net.URL;
import java.nio.charset.StandardCharsets;
import org.json.JSONException;
import org.json.JSONObject;

/** The generate extension of the Open Inference Protocol, {@code .../v2/models/MODEL/generate}, as Triton speaks it. */
final class GenerateEndpoint implements Cloud {
    private static final int TIMEOUT_MS = 10_000;
    private static final int MAX_RESPONSE = 1 << 20;
    private static final int MAX_TOKENS = 256;

    private final String url;

    GenerateEndpoint(String url) {
        this.url = url;
    }

    @Override
    public String summarize(String text) throws CloudException {
        HttpURLConnection connection = null;
        try {
            JSONObject parameters = new JSONObject().put("max_tokens", MAX_TOKENS).put("temperature", 0);
            byte[] body =
                    new JSONObject()
                            .put("text_input", text)
                            .put("parameters", parameters)
                            .toString()
                            .getBytes(StandardCharsets.UTF_8);
            connection = (HttpURLConnection) new URL(url).openConnection();
            connection.setConnectTimeout(TIMEOUT_MS);
            connection.setReadTimeout(TIMEOUT_MS);
            connection.setInstanceFollowRedirects(false); // the user agreed to this address
            connection.setRequestProperty("Content-Type", "application/json");
            connection.setDoOutput(true);
            connection.setFixedLengthStreamingMode(body.length);
            try (OutputStream out = connection.getOutputStream()) {
                out.write(body);
            }
            if (connection.getResponseCode() != HttpURLConnection.HTTP_OK) {
                throw new CloudException("status", "HTTP status " + connection.getResponseCode());
            }
            return new JSONObject(read(connection)).getString("text_output");
        } catch (JSONException e) {
            throw new CloudException("invalid_response", e.getMessage());
        } catch (SocketTimeoutException e) {
            throw new CloudException("timeout", e.getMessage());
        } catch (IOException | ClassCastException e) {
            throw new CloudException("connect", e.getMessage());
        } finally {
            if (connection != null) {
                connection.disconnect();
            }
        }
    }

    private static String read(HttpURLConnection connection) throws IOException, CloudException {
        ByteArrayOutputStream all = new ByteArrayOutputStream();
        byte[] block = new byte[8192];
        try (InputStream in = connection.getInputStream()) {
            for (int n = in.read(block); n >= 0; n = in.read(block)) {
                all.write(block, 0, n);
                if (all.size() > MAX_RESPONSE) {
                    throw new CloudException("too_large", "more than " + MAX_RESPONSE + " bytes");
                }
            }
        }
        return new String(all.toByteArray(), StandardCharsets.UTF_8);
    }
}
