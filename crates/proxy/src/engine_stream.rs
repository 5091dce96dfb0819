//! An engine's stream: TCP, or the Unix socket of the engine on this very host.
//!
//! Guarantees: both behave alike, also when cut: what was written before stays readable for the engine, nothing
//! follows it. The Unix socket is there because each packet through loopback TCP pays for the whole of TCP.
//! Does not know: who listens; that is for whoever names the socket to be sure of.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

/// An engine's host that says nothing on a quiet connection is asked after this long whether it is there, and so often again.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(5), Duration::from_secs(1), 3);

/// See the file's contract.
#[derive(Debug)]
pub enum EngineStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Where the engine's answers come from.
#[derive(Debug)]
pub enum ReadHalf {
    Tcp(tcp::OwnedReadHalf),
    Unix(unix::OwnedReadHalf),
}

/// The way out to the engine. Dropped, it ends the way out.
#[derive(Debug)]
pub enum WriteHalf {
    Tcp(tcp::OwnedWriteHalf),
    Unix(unix::OwnedWriteHalf),
}

impl EngineStream {
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self {
            EngineStream::Tcp(s) => {
                let (read, write) = s.into_split();
                (ReadHalf::Tcp(read), WriteHalf::Tcp(write))
            }
            EngineStream::Unix(s) => {
                let (read, write) = s.into_split();
                (ReadHalf::Unix(read), WriteHalf::Unix(write))
            }
        }
    }
}

impl EngineStream {
    /// By TCP. A host that is gone while an answer is awaited is noticed within some eight seconds.
    pub async fn tcp(addr: SocketAddr) -> io::Result<EngineStream> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let (time, interval, retries) = KEEPALIVE;
        let keepalive =
            socket2::TcpKeepalive::new().with_time(time).with_interval(interval).with_retries(retries);
        socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        Ok(EngineStream::Tcp(stream))
    }
}

impl WriteHalf {
    /// Ends both directions at once, whatever is under way.
    pub fn cut(&self) -> io::Result<()> {
        match self {
            WriteHalf::Tcp(s) => socket2::SockRef::from(s.as_ref()).shutdown(Shutdown::Both),
            WriteHalf::Unix(s) => socket2::SockRef::from(s.as_ref()).shutdown(Shutdown::Both),
        }
    }
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            WriteHalf::Tcp(s) => Pin::new(s).poll_write(cx, bytes),
            WriteHalf::Unix(s) => Pin::new(s).poll_write(cx, bytes),
        }
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ReadHalf::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            ReadHalf::Unix(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncRead for EngineStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            EngineStream::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            EngineStream::Unix(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for EngineStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            EngineStream::Tcp(s) => Pin::new(s).poll_write(cx, buf),
            EngineStream::Unix(s) => Pin::new(s).poll_write(cx, buf),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            EngineStream::Tcp(s) => Pin::new(s).poll_flush(cx),
            EngineStream::Unix(s) => Pin::new(s).poll_flush(cx),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            EngineStream::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            EngineStream::Unix(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}
