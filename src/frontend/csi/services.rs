//! Passes each call to the service that it is for.
//!
//! There are only two services, so comparing names is enough. tonic's own router handles any number of services and
//! paths, but allocates ten blocks of memory for every call.

use std::convert::Infallible;
use std::task::{Context, Poll, ready};

use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;

use super::caller::Caller;

/// Two services on one socket.
#[derive(Debug, Clone)]
pub struct Services<A, B> {
    /// The service that is chosen by its name.
    pub named: A,
    /// The service that gets all other calls. It answers unknown ones with "unimplemented".
    pub other: B,
}

type Request = http::Request<Body>;
type Response = http::Response<Body>;
type Answer = BoxFuture<Response, Infallible>;

impl<A, B> Service<Request> for Services<A, B>
where
    A: Service<Request, Response = Response, Error = Infallible, Future = Answer> + NamedService,
    B: Service<Request, Response = Response, Error = Infallible, Future = Answer>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        ready!(self.named.poll_ready(cx))?;
        self.other.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Answer {
        let path = request.uri().path();
        if is_for(A::NAME, path) {
            return self.named.call(request);
        }
        if let Some(caller) = request.extensions().get::<Caller>() {
            caller.calls(path);
        }
        self.other.call(request)
    }
}

/// Whether a path of the form `/SERVICE/METHOD` names this service.
fn is_for(service: &str, path: &str) -> bool {
    path.strip_prefix('/').and_then(|path| path.strip_prefix(service)).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_its_service() {
        for (path, named) in [
            ("/csi.v1.Identity/Probe", true),
            ("/csi.v1.Identity/", true),
            ("/csi.v1.Identity", false),
            ("/csi.v1.IdentityServer/Probe", false),
            ("/csi.v1.Node/NodeGetInfo", false),
            ("csi.v1.Identity/Probe", false),
            ("/", false),
        ] {
            assert_eq!(is_for("csi.v1.Identity", path), named, "{path}");
        }
    }
}
