//! A connection: its bytes, and what must live as long as it does.
//!
//! tokio's own stream is woken whenever the other end has read something, because the stream could then be written to.
//! The wake-up happens in the other end's system call, and slows it down. An answer is a few dozen bytes, for which
//! there is room. So this stream registers for room only while it has to wait for it.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use kernel::readiness::register;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tonic::transport::server::Connected;

use super::admission::Permit;
use super::caller::Caller;

/// The most bytes that are read at once: usually a whole call. The buffer is zeroed first.
const PIECE: usize = 2048;

/// An accepted connection.
#[derive(Debug)]
pub struct Connection {
    stream: AsyncFd<UnixStream>,
    /// A duplicate of the stream, while we wait for room to write.
    full: Option<AsyncFd<UnixStream>>,
    caller: Caller,
    _permit: Permit,
}

impl Connection {
    /// A connection, its caller, and its permit.
    ///
    /// # Errors
    /// The error of epoll_ctl(2).
    pub fn new(stream: tokio::net::UnixStream, caller: Caller, permit: Permit) -> io::Result<Self> {
        let stream = register(stream.into_std()?, Interest::READABLE)?;
        Ok(Self { stream, full: None, caller, _permit: permit })
    }

    /// Writes as soon as there is room for a byte.
    fn poll_write_by(
        &mut self,
        cx: &mut Context<'_>,
        write: impl Fn(&mut &UnixStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            if let Some(full) = &self.full {
                ready!(full.poll_write_ready(cx))?.clear_ready();
            }
            match write(&mut self.stream.get_ref()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.full.is_none() {
                        let same = self.stream.get_ref().try_clone()?;
                        self.full = Some(register(same, Interest::WRITABLE)?);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                written => {
                    self.full = None;
                    return Poll::Ready(written);
                }
            }
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.stream.poll_read_ready(cx))?;
            let most = buf.remaining().min(PIECE);
            let room = buf.initialize_unfilled_to(most);
            match ready.try_io(|stream| stream.get_ref().read(room)) {
                Ok(Ok(count)) => {
                    // Less was read than fits: nothing is left, and epoll reports whatever arrives (epoll(7),
                    // "edge-triggered").
                    if count > 0 && count < most {
                        ready.clear_ready();
                    }
                    buf.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_nothing_there) => {}
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_by(cx, |stream| stream.write(buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_by(cx, |stream| stream.write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.stream.get_ref().shutdown(Shutdown::Write))
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd, RawFd};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream as Client;

    use super::*;
    use crate::csi::admission::Admission;

    fn pair() -> (Connection, Client) {
        let (ours, theirs) = Client::pair().unwrap();
        let permit = Admission::new(1).admit(&ours).unwrap();
        (Connection::new(ours, Caller::nobody(), permit).unwrap(), theirs)
    }

    /// Whether any epoll of this process waits until the descriptor can be written to (proc_pid_fdinfo(5)).
    fn waits_for_room(fd: RawFd) -> bool {
        let all = std::fs::read_dir("/proc/self/fdinfo").unwrap();
        let told: String = all.filter_map(|info| std::fs::read_to_string(info.unwrap().path()).ok()).collect();
        let events = told.lines().filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            (words.first() == Some(&"tfd:") && words[1] == fd.to_string())
                .then(|| u32::from_str_radix(words[3], 16).unwrap())
        });
        let events: Vec<u32> = events.collect();
        assert!(!events.is_empty(), "{told}");
        events.iter().any(|events| events & libc::EPOLLOUT.cast_unsigned() != 0)
    }

    #[tokio::test]
    async fn room_is_waited_for_only_while_there_is_none() {
        let (mut ours, mut theirs) = pair();
        ours.write_all(b"an answer").await.unwrap();
        assert!(!waits_for_room(ours.stream.as_raw_fd()) && ours.full.is_none());
        // The kernel buffers some 200 KB of it.
        let sent: Vec<u8> = (0..4 << 20).map(|n: u32| n.to_le_bytes()[1]).collect();
        let data = sent.clone();
        let mut writing = tokio::spawn(async move {
            ours.write_all(&data).await.unwrap();
            assert!(ours.full.is_none(), "there is room again");
            ours.shutdown().await.unwrap();
            ours
        });
        assert!(tokio::time::timeout(std::time::Duration::from_millis(100), &mut writing).await.is_err(), "it is full");
        let mut received = Vec::new();
        theirs.read_to_end(&mut received).await.unwrap();
        assert!(received == [b"an answer", &sent[..]].concat());
        let ours = writing.await.unwrap();
        assert!(!waits_for_room(ours.stream.as_raw_fd()));
    }

    #[tokio::test]
    async fn what_comes_in_pieces_is_read_to_its_end() {
        let (mut ours, mut theirs) = pair();
        let reading = tokio::spawn(async move {
            let mut received = Vec::new();
            ours.read_to_end(&mut received).await.map(|_| received)
        });
        let mut sent = Vec::new();
        for length in [1_usize, 4096, 8192, 30, 100_000] {
            let piece = vec![b'x'; length];
            theirs.write_all(&piece).await.unwrap();
            sent.extend(piece);
            tokio::task::yield_now().await;
        }
        drop(theirs);
        assert_eq!(reading.await.unwrap().unwrap().len(), sent.len());
    }

    #[tokio::test]
    async fn who_is_gone_is_told_of() {
        let (mut ours, theirs) = pair();
        drop(theirs);
        assert_eq!(ours.read(&mut [0; 8]).await.unwrap(), 0);
        assert_eq!(ours.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
