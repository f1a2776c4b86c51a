//! The Identity service.

use std::collections::HashMap;
use std::sync::Arc;

use csi::plugin_capability::service::Type as Service;
use csi::plugin_capability::{Service as ServiceCapability, Type};
use tonic::{Request, Response, Status};
use wire::csi;

use super::plugin::{Plugin, Subject};

/// The Identity service of a plugin.
#[derive(Debug, Clone)]
pub struct Identity(pub Arc<Plugin>);

const fn subject(rpc: &'static str) -> Subject<'static> {
    Subject { rpc, volume: "", pod: None, attributes: None }
}

#[tonic::async_trait]
impl csi::identity_server::Identity for Identity {
    async fn get_plugin_info(
        &self,
        _: Request<csi::GetPluginInfoRequest>,
    ) -> Result<Response<csi::GetPluginInfoResponse>, Status> {
        let answer = csi::GetPluginInfoResponse {
            name: self.0.service.driver.clone(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            manifest: HashMap::new(),
        };
        self.0.call(subject("GetPluginInfo"), async { Ok(answer) }).await
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<csi::GetPluginCapabilitiesRequest>,
    ) -> Result<Response<csi::GetPluginCapabilitiesResponse>, Status> {
        let constrained = ServiceCapability { r#type: Service::VolumeAccessibilityConstraints.into() };
        let answer = csi::GetPluginCapabilitiesResponse {
            capabilities: vec![csi::PluginCapability { r#type: Some(Type::Service(constrained)) }],
        };
        self.0.call(subject("GetPluginCapabilities"), async { Ok(answer) }).await
    }

    async fn probe(&self, _: Request<csi::ProbeRequest>) -> Result<Response<csi::ProbeResponse>, Status> {
        let ready = self.0.service.able().await;
        if let Err(why) = &ready {
            tracing::warn!(%why, "not ready");
        }
        let answer = csi::ProbeResponse { ready: Some(ready.is_ok()) };
        self.0.call(subject("Probe"), async { Ok(answer) }).await
    }
}
