/*
 * The HTTP client of the JDK in a program: `java Client.java java-sse|java-ws ORIGIN TOPIC…`, with a connection for each
 * topic. Every report is a line of JSON for tests/clients/run.py. For runs by hand.
 */

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.net.http.WebSocket;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.CountDownLatch;
import java.util.regex.Pattern;

public class Client {
    static final HttpClient HTTP = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
    static final long RETRY_MS = 300;

    public static void main(String[] arguments) {
        String origin = arguments[1];
        for (int i = 2; i < arguments.length; i++) {
            String topic = arguments[i];
            new Thread(arguments[0].equals("java-ws") ? () -> sockets(origin, topic) : () -> streams(origin, topic)).start();
        }
    }

    static synchronized void report(String topic, String kind, String value) {
        System.out.println("[\"" + topic + "\",\"" + kind + "\"," + value + "]");
    }

    /** The value of a key. Good enough for the JSON of Janus, which has no blanks. `data` is last. */
    static String member(String json, String key) {
        if (key.equals("data")) return json.substring(json.indexOf("\"data\":") + 7, json.length() - 1);
        var found = Pattern.compile("\"" + key + "\":(\"[^\"]*\"|[^,}]*)").matcher(json);
        return found.find() ? found.group(1).replace("\"", "") : "null";
    }

    static void pause(long ms) {
        try {
            Thread.sleep(ms);
        } catch (InterruptedException e) {
            throw new IllegalStateException(e);
        }
    }

    static void streams(String origin, String topic) {
        String id = null;
        long retry = RETRY_MS;
        for (;;) {
            var request = HttpRequest.newBuilder(URI.create(origin + "/events?topic=" + topic)).header("Accept", "text/event-stream");
            if (id != null) request.header("Last-Event-ID", id);
            String event = "message", data = null;
            try {
                var answer = HTTP.send(request.build(), BodyHandlers.ofLines());
                if (answer.statusCode() != 200) throw new java.io.IOException("status " + answer.statusCode());
                report(topic, "open", "null");
                for (var lines = answer.body().iterator(); lines.hasNext();) {
                    String line = lines.next();
                    if (line.startsWith("id: ")) id = line.substring(4);
                    else if (line.startsWith("retry: ")) retry = Long.parseLong(line.substring(7));
                    else if (line.startsWith("event: ")) event = line.substring(7);
                    else if (line.startsWith("data: ")) data = line.substring(6);
                    else if (line.isEmpty()) {
                        if (data != null) heard(topic, event, data);
                        event = "message";
                        data = null;
                    }
                }
            } catch (java.io.IOException | java.io.UncheckedIOException e) {
                report(topic, "error", "null");
            } catch (InterruptedException e) {
                return;
            }
            pause(retry);
        }
    }

    static void heard(String topic, String event, String data) {
        switch (event) {
            case "message" -> report(topic, "message", member(data, "data"));
            case "subscribed" -> report(topic, "subscribed", member(data, "resumed"));
            case "heartbeat" -> {}
            default -> report(topic, event, member(data, "code"));
        }
    }

    static void sockets(String origin, String topic) {
        var conversation = new Conversation(topic);
        for (;;) {
            conversation.ended = new CountDownLatch(1);
            conversation.retry = RETRY_MS;
            try {
                HTTP.newWebSocketBuilder().subprotocols("janus.v1.json")
                    .buildAsync(URI.create(origin.replace("http", "ws") + "/ws"), conversation).join();
                conversation.ended.await();
            } catch (java.util.concurrent.CompletionException e) {
                report(topic, "error", "null");
            } catch (InterruptedException e) {
                return;
            }
            pause(conversation.retry);
        }
    }

    static class Conversation implements WebSocket.Listener {
        final String topic;
        final StringBuilder text = new StringBuilder();
        String session, epoch, seq;
        CountDownLatch ended;
        long retry;

        Conversation(String topic) {
            this.topic = topic;
        }

        @Override
        public void onOpen(WebSocket socket) {
            text.setLength(0);
            String hello = session == null ? "{\"type\":\"hello\"}" : "{\"type\":\"hello\",\"session\":\"" + session + "\"}";
            String since = epoch == null ? "" : ",\"since\":{\"epoch\":\"" + epoch + "\",\"seq\":" + seq + "}";
            String subscribe = "{\"type\":\"subscribe\",\"id\":1,\"topic\":\"" + topic + "\"" + since + "}";
            socket.sendText(hello, true).thenCompose(sent -> socket.sendText(subscribe, true));
            socket.request(1);
        }

        @Override
        public CompletionStage<?> onText(WebSocket socket, CharSequence part, boolean last) {
            text.append(part);
            if (last) {
                heard(text.toString());
                text.setLength(0);
            }
            socket.request(1);
            return null;
        }

        void heard(String frame) {
            switch (member(frame, "type")) {
                case "welcome" -> session = member(frame, "session");
                case "subscribed" -> {
                    boolean resumed = member(frame, "resumed").equals("true");
                    if (epoch != null && !resumed) report(topic, "gap", "null");
                    if (!resumed) {
                        epoch = member(frame, "epoch");
                        seq = member(frame, "seq");
                    }
                    report(topic, "open", "null");
                    report(topic, "subscribed", String.valueOf(resumed));
                }
                case "message" -> {
                    seq = member(frame, "seq");
                    report(topic, "message", member(frame, "data"));
                }
                case "bye" -> {
                    retry = Long.parseLong(member(frame, "reconnect_after_ms"));
                    report(topic, "bye", member(frame, "code"));
                }
                default -> report(topic, member(frame, "type"), member(frame, "code"));
            }
        }

        @Override
        public CompletionStage<?> onClose(WebSocket socket, int code, String reason) {
            ended.countDown();
            return null;
        }

        @Override
        public void onError(WebSocket socket, Throwable error) {
            report(topic, "error", "null");
            ended.countDown();
        }
    }
}
