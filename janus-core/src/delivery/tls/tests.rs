//! Connections over TLS between real sockets and a rustls client.
