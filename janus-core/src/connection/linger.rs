//! The end of a connection that is refused before it has a Transport.

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long, and for how many bytes, a refused client may still send before its connection is closed. Closing with unread
/// bytes would reset the connection, and the reason would be lost.
const LINGER: Duration = Duration::from_millis(250);
const LINGER_BYTES: usize = 64 * 1_024;

/// Lets a client read the last words. The caller has sent a FIN.
pub(super) async fn linger(socket: TcpStream) {
    let mut left = LINGER_BYTES;
    let mut piece = [0; 1_024];
    let read_to_the_end = async {
        while left > 0 && socket.readable().await.is_ok() {
            match socket.try_read(&mut piece) {
                Ok(0) => return,
                Ok(length) => left = left.saturating_sub(length),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    };
    let _ = timeout(LINGER, read_to_the_end).await;
}
