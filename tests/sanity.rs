//! Conformance: csi-sanity, the judge of the CSI project, on the real server.
//!
//! Its Node cases make their volumes with CreateVolume, which hostmount doesn't offer. A controller of the test's own
//! answers that on a socket of its own: each volume is a new directory beneath an entry.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod support;

use std::process::Command;

use support::{Node, in_namespace, mounts_beneath};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};
use wire::csi;
use wire::csi::controller_server::{Controller, ControllerServer};
use wire::csi::controller_service_capability::{Rpc, Type, rpc};
use wire::csi::identity_server::IdentityServer;
use wire::csi::node_server::NodeServer;

struct Shim;

#[tonic::async_trait]
impl Controller for Shim {
    async fn create_volume(
        &self,
        request: Request<csi::CreateVolumeRequest>,
    ) -> Result<Response<csi::CreateVolumeResponse>, Status> {
        let name: String =
            request.into_inner().name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        std::fs::create_dir_all(format!("/mnt/data/{name}")).unwrap();
        let volume = csi::Volume { volume_id: format!("data/{name}"), ..Default::default() };
        Ok(Response::new(csi::CreateVolumeResponse { volume: Some(volume) }))
    }

    async fn delete_volume(
        &self,
        _: Request<csi::DeleteVolumeRequest>,
    ) -> Result<Response<csi::DeleteVolumeResponse>, Status> {
        Ok(Response::new(csi::DeleteVolumeResponse {}))
    }

    async fn controller_get_capabilities(
        &self,
        _: Request<csi::ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<csi::ControllerGetCapabilitiesResponse>, Status> {
        let create = Type::Rpc(Rpc { r#type: rpc::Type::CreateDeleteVolume.into() });
        let capabilities = vec![csi::ControllerServiceCapability { r#type: Some(create) }];
        Ok(Response::new(csi::ControllerGetCapabilitiesResponse { capabilities }))
    }
}

/// The real services, with one word added to Identity: that there is a controller.
struct WithController(tonic::transport::Channel);

impl WithController {
    fn identity(&self) -> csi::identity_client::IdentityClient<tonic::transport::Channel> {
        csi::identity_client::IdentityClient::new(self.0.clone())
    }
}

macro_rules! passed_on {
    ($($call:ident: $request:ident -> $answer:ident,)*) => {
        #[tonic::async_trait]
        impl csi::node_server::Node for WithController {
            $(async fn $call(&self, request: Request<csi::$request>) -> Result<Response<csi::$answer>, Status> {
                csi::node_client::NodeClient::new(self.0.clone()).$call(request).await
            })*
        }
    };
}

passed_on! {
    node_stage_volume: NodeStageVolumeRequest -> NodeStageVolumeResponse,
    node_unstage_volume: NodeUnstageVolumeRequest -> NodeUnstageVolumeResponse,
    node_publish_volume: NodePublishVolumeRequest -> NodePublishVolumeResponse,
    node_unpublish_volume: NodeUnpublishVolumeRequest -> NodeUnpublishVolumeResponse,
    node_get_volume_stats: NodeGetVolumeStatsRequest -> NodeGetVolumeStatsResponse,
    node_get_volume_health: NodeGetVolumeHealthRequest -> NodeGetVolumeHealthResponse,
    node_get_capabilities: NodeGetCapabilitiesRequest -> NodeGetCapabilitiesResponse,
    node_get_info: NodeGetInfoRequest -> NodeGetInfoResponse,
}

#[tonic::async_trait]
impl csi::identity_server::Identity for WithController {
    async fn get_plugin_info(
        &self,
        request: Request<csi::GetPluginInfoRequest>,
    ) -> Result<Response<csi::GetPluginInfoResponse>, Status> {
        self.identity().get_plugin_info(request).await
    }

    async fn get_plugin_capabilities(
        &self,
        request: Request<csi::GetPluginCapabilitiesRequest>,
    ) -> Result<Response<csi::GetPluginCapabilitiesResponse>, Status> {
        use csi::plugin_capability::{Service, Type, service};
        let mut answer = self.identity().get_plugin_capabilities(request).await?;
        let controller = Type::Service(Service { r#type: service::Type::ControllerService.into() });
        answer.get_mut().capabilities.push(csi::PluginCapability { r#type: Some(controller) });
        Ok(answer)
    }

    async fn probe(&self, request: Request<csi::ProbeRequest>) -> Result<Response<csi::ProbeResponse>, Status> {
        self.identity().probe(request).await
    }
}

/// Runs csi-sanity on some of its suites: how many cases passed, none having failed.
fn judged(node: &Node, program: &str, suites: &str, arguments: &[&str]) -> u32 {
    let mut command = Command::new(program);
    command
        .args(["--csi.mountdir=/mnt/kubelet/pods/sanity", "--csi.stagingdir=/mnt/kubelet/plugins/sanity"])
        .args([&format!("--ginkgo.focus={suites}"), "--ginkgo.no-color", "--ginkgo.v"])
        .args(arguments);
    let waiting = async { tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap() };
    let sanity = node.runtime.block_on(waiting);
    let text = String::from_utf8_lossy(&sanity.stdout).into_owned();
    for line in text.lines().filter(|l| l.starts_with("  [SKIPPED] ") && !l.contains("[SKIPPED] in")) {
        println!("{line}");
    }
    assert!(sanity.status.success(), "{text}\n{}", node.log());
    let summary = text.lines().find(|l| l.contains(" Passed | 0 Failed")).expect("csi-sanity prints its summary");
    println!("{suites}: {summary}");
    summary.split(" Passed").next().and_then(|l| l.rsplit(' ').next()?.parse().ok()).unwrap()
}

/// csi-sanity, wherever it is.
fn csi_sanity() -> String {
    let candidates = [
        std::env::var("CSI_SANITY").ok(),
        Some("csi-sanity".to_owned()),
        std::env::var("HOME").ok().map(|home| format!("{home}/go/bin/csi-sanity")),
    ];
    candidates
        .into_iter()
        .flatten()
        .find(|path| Command::new(path).arg("--help").output().is_ok())
        .expect("csi-sanity is missing: go install github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity@v5.6.0")
}

#[test]
fn csi_sanity_finds_the_node_and_identity_services_conformant() {
    in_namespace(|| {
        let program = csi_sanity();
        let node = Node::start();
        let socket = node.root.join("controller.sock");
        let listener = {
            let _inside = node.runtime.enter();
            tokio::net::UnixListener::bind(&socket).unwrap()
        };
        let serving = tonic::transport::Server::builder()
            .add_service(ControllerServer::new(Shim))
            .add_service(IdentityServer::new(WithController(node.channel())))
            .add_service(NodeServer::new(WithController(node.channel())));
        node.runtime.spawn(serving.serve_with_incoming(UnixListenerStream::new(listener)));
        let (ours, controller) = ("--csi.endpoint=/mnt/csi.sock", "--csi.controllerendpoint=/mnt/controller.sock");
        assert!(judged(&node, &program, "Identity Service", &[ours]) >= 3);
        assert!(judged(&node, &program, "Node Service", &[ours, controller]) >= 20);
        // The two long cases look for the controller on the driver's own socket.
        let both = "--csi.endpoint=/mnt/controller.sock";
        assert_eq!(judged(&node, &program, "Node Service should (work|be idempotent)", &[both, controller]), 2);
        let kubelet = node.root.join("kubelet");
        let left: Vec<_> = mounts_beneath(&kubelet).into_iter().filter(|p| !p.ends_with("workshop")).collect();
        assert!(left.is_empty(), "csi-sanity's volumes are still mounted: {left:?}");
    });
}
