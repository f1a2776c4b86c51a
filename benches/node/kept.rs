//! A kept connection, and nothing around it: what each of many callers has.
//!
//! tonic's client has a queue, a timer and two tasks for each connection, which is well where a call now and then is made.
//! Beside many callers it would take as much of the machine as a driver does, and the fastest would be held up by it. Here
//! a caller turns its connection itself, while it waits for the answer.

use std::future::poll_fn;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{Connection, SendRequest};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE};
use http::{Method, Uri};
use prost::Message;
use tokio::net::UnixStream;

use crate::Outcome;

/// A call, ready to be sent: what making it up takes is nothing of the driver's.
pub(crate) struct Call {
    method: Uri,
    message: Bytes,
}

impl Call {
    /// Of a method of a service, such as `csi.v1.Node/NodePublishVolume`.
    pub(crate) fn new(method: &str, message: &impl Message) -> Outcome<Self> {
        // gRPC over HTTP2: a byte that says it isn't compressed, the length, the message.
        let length = message.encoded_len();
        let mut body = BytesMut::with_capacity(5 + length);
        body.put_u8(0);
        body.put_u32(u32::try_from(length)?);
        message.encode(&mut body)?;
        Ok(Self { method: format!("http://localhost/{method}").parse()?, message: body.freeze() })
    }
}

/// A connection with one call at a time.
pub(crate) struct Kept {
    requests: SendRequest<Bytes>,
    connection: Connection<UnixStream, Bytes>,
}

impl Kept {
    /// Connects.
    pub(crate) async fn connect(socket: &Path) -> Outcome<Self> {
        let (requests, connection) = h2::client::handshake(UnixStream::connect(socket).await?).await?;
        Ok(Self { requests, connection })
    }

    /// Makes a call whose answer says nothing but how it went.
    pub(crate) async fn call(&mut self, call: &Call) -> Outcome<()> {
        let Self { requests, connection } = self;
        let mut request = http::Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = call.method.clone();
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
        poll_fn(|cx| turning(connection, cx, |cx| requests.poll_ready(cx))).await??;
        let (mut response, mut stream) = requests.send_request(request, false)?;
        stream.send_data(call.message.clone(), true)?;
        let response = poll_fn(|cx| turning(connection, cx, |cx| Pin::new(&mut response).poll(cx))).await??;
        // An error without a message comes in the headers alone.
        let (head, mut body) = response.into_parts();
        while let Some(data) = poll_fn(|cx| turning(connection, cx, |cx| body.poll_data(cx))).await? {
            let length = data?.len();
            body.flow_control().release_capacity(length)?;
        }
        let trailers = poll_fn(|cx| turning(connection, cx, |cx| body.poll_trailers(cx))).await??;
        let status =
            |map: &HeaderMap, name| map.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let map = trailers.as_ref().unwrap_or(&head.headers);
        match status(map, "grpc-status").as_deref() {
            Some("0") => Ok(()),
            other => {
                let code = other.unwrap_or("none");
                Err(format!("status {code}: {}", status(map, "grpc-message").unwrap_or_default()).into())
            }
        }
    }
}

/// Turns a connection, and asks for what is waited for.
fn turning<T>(
    connection: &mut Connection<UnixStream, Bytes>,
    cx: &mut Context<'_>,
    mut wanted: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Poll<Outcome<T>> {
    if let Poll::Ready(ended) = Pin::new(&mut *connection).poll(cx) {
        return Poll::Ready(Err(ended.err().map_or_else(|| "the driver has closed the connection".into(), Into::into)));
    }
    wanted(cx).map(Ok)
}
