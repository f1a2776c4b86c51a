//! The Node service. It parses messages, has the service do the work, and builds the answers.

use std::collections::HashMap;
use std::sync::Arc;

use allowlist::author::AuthorText;
use engine::mount_error::MountError;
use futures_util::TryFutureExt;
use kernel::stat::Usage;
use service::error::Error;
use service::request::VolumeAt;
use service::source_health::SourceHealth;
use service::{By, Service};
use text::cut::Cut;
use tonic::{Request, Response, Status};
use wire::csi;
use wire::csi::node_service_capability::rpc::Type as Rpc;
use wire::csi::volume_health::VolumeHealthEntry;
use wire::csi::volume_usage::Unit;
use workers::{CallRuntime, Pool};

use super::plugin::{Plugin, Subject};
use super::request;
use super::status::CallError;

/// The Node service of a plugin.
#[derive(Debug, Clone)]
pub struct Node {
    /// The plugin.
    pub plugin: Arc<Plugin>,
    /// The runtime that serves the calls.
    pub runtime: Arc<CallRuntime>,
}

type Answer<T> = Result<Response<T>, Status>;

impl Node {
    fn service(&self) -> &Service {
        &self.plugin.service
    }

    fn by<'a>(&'a self, pool: &'a Arc<Pool>) -> By<'a> {
        By { pool, runtime: Some(&self.runtime) }
    }

    async fn stage(&self, request: &Request<csi::NodeStageVolumeRequest>) -> Result<(), CallError> {
        let asked = request::stage(request.get_ref(), self.plugin.kubelet_dir())?;
        let pool = self.plugin.pool_of(request)?;
        Ok(self.service().stage(self.by(&pool), &asked).await?)
    }

    async fn unstage(&self, request: &Request<csi::NodeUnstageVolumeRequest>) -> Result<(), CallError> {
        let message = request.get_ref();
        let (field, path) = ("staging_target_path", &message.staging_target_path);
        let at = request::volume_at(&message.volume_id, field, path, self.plugin.kubelet_dir())?;
        let pool = self.plugin.pool_of(request)?;
        Ok(self.service().unstage(self.by(&pool), &at).await?)
    }

    async fn publish(&self, request: &Request<csi::NodePublishVolumeRequest>) -> Result<(), CallError> {
        let asked = request::publish(request.get_ref(), self.plugin.kubelet_dir())?;
        let pool = self.plugin.pool_of(request)?;
        Ok(self.service().publish(self.by(&pool), &asked).await?)
    }

    async fn unpublish(&self, request: &Request<csi::NodeUnpublishVolumeRequest>) -> Result<(), CallError> {
        let message = request.get_ref();
        let (field, path) = ("target_path", &message.target_path);
        let at = request::volume_at(&message.volume_id, field, path, self.plugin.kubelet_dir())?;
        let pool = self.plugin.pool_of(request)?;
        Ok(self.service().unpublish(self.by(&pool), &at).await?)
    }

    /// The volume that a call examines. The error is `NotPublished` if no volume of ours can be at the path.
    fn to_look_at(&self, id: &str, field: &'static str, path: &str) -> Result<VolumeAt, CallError> {
        let at = request::volume_to_look_at(id, field, path, self.plugin.kubelet_dir())?;
        Ok(at.ok_or_else(|| Error::from(MountError::NotPublished { path: path.into() }))?)
    }

    async fn stats(&self, request: &Request<csi::NodeGetVolumeStatsRequest>) -> Result<Usage, CallError> {
        let message = request.get_ref();
        let at = self.to_look_at(&message.volume_id, "volume_path", &message.volume_path)?;
        let pool = self.plugin.pool_of(request)?;
        Ok(self.service().stats(self.by(&pool), &at).await?)
    }

    /// Both paths of this request are optional. Without them, the volume's source is examined.
    async fn health(&self, request: &Request<csi::NodeGetVolumeHealthRequest>) -> Result<csi::VolumeHealth, CallError> {
        let message = request.get_ref();
        let id = message.volume_id.clone();
        let path = if message.volume_publish_path.is_empty() {
            &message.staging_target_path
        } else {
            &message.volume_publish_path
        };
        let pool = self.plugin.pool_of(request)?;
        let (health, text) = if path.is_empty() {
            self.service().source_health(self.by(&pool), request::handle(&id)?).await?
        } else {
            let at = self.to_look_at(&id, "volume_publish_path", path)?;
            self.service().health(self.by(&pool), &at).await?
        };
        Ok(csi::VolumeHealth { volume_id: id, health_statuses: health_status(health, text).into_iter().collect() })
    }
}

fn health_status(health: SourceHealth, text: AuthorText) -> Option<VolumeHealthEntry> {
    let status = match health {
        SourceHealth::Live => return None,
        SourceHealth::Dead(_) | SourceHealth::Hung => csi::VolumeHealthErrorType::Inaccessible,
        SourceHealth::Deleted => csi::VolumeHealthErrorType::DataLoss,
    };
    Some(VolumeHealthEntry { status: status.into(), reason: health.reason().to_owned(), message: text.into() })
}

/// How much of a pod's name is logged. The caller has given it.
const LOGGED: Cut = Cut::characters(320).mark("");

fn pod_of(context: &HashMap<String, String>) -> Option<String> {
    let (namespace, name) = (context.get(request::POD_NAMESPACE)?, context.get(request::POD_NAME)?);
    Some(LOGGED.apply(&format!("{namespace}/{name}")).into_owned())
}

fn usage(values: [u64; 3], unit: Unit) -> csi::VolumeUsage {
    let [total, used, available] = values.map(|v| i64::try_from(v).unwrap_or(i64::MAX));
    csi::VolumeUsage { available, total, used, unit: unit.into() }
}

#[tonic::async_trait]
impl csi::node_server::Node for Node {
    async fn node_stage_volume(
        &self,
        request: Request<csi::NodeStageVolumeRequest>,
    ) -> Answer<csi::NodeStageVolumeResponse> {
        let subject =
            Subject { rpc: "NodeStageVolume", volume: &request.get_ref().volume_id, pod: None, attributes: None };
        self.plugin.call(subject, self.stage(&request).map_ok(|()| csi::NodeStageVolumeResponse {})).await
    }

    async fn node_unstage_volume(
        &self,
        request: Request<csi::NodeUnstageVolumeRequest>,
    ) -> Answer<csi::NodeUnstageVolumeResponse> {
        let message = request.get_ref();
        let subject = Subject { rpc: "NodeUnstageVolume", volume: &message.volume_id, pod: None, attributes: None };
        self.plugin.call(subject, self.unstage(&request).map_ok(|()| csi::NodeUnstageVolumeResponse {})).await
    }

    async fn node_publish_volume(
        &self,
        request: Request<csi::NodePublishVolumeRequest>,
    ) -> Answer<csi::NodePublishVolumeResponse> {
        let pod = pod_of(&request.get_ref().volume_context);
        let message = request.get_ref();
        let attributes = Some(&message.volume_context);
        let subject = Subject { rpc: "NodePublishVolume", volume: &message.volume_id, pod: pod.as_deref(), attributes };
        self.plugin.call(subject, self.publish(&request).map_ok(|()| csi::NodePublishVolumeResponse {})).await
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<csi::NodeUnpublishVolumeRequest>,
    ) -> Answer<csi::NodeUnpublishVolumeResponse> {
        let message = request.get_ref();
        let subject = Subject { rpc: "NodeUnpublishVolume", volume: &message.volume_id, pod: None, attributes: None };
        self.plugin.call(subject, self.unpublish(&request).map_ok(|()| csi::NodeUnpublishVolumeResponse {})).await
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<csi::NodeGetVolumeStatsRequest>,
    ) -> Answer<csi::NodeGetVolumeStatsResponse> {
        let subject =
            Subject { rpc: "NodeGetVolumeStats", volume: &request.get_ref().volume_id, pod: None, attributes: None };
        let work = async {
            let found = self.stats(&request).await?;
            let usage = vec![usage(found.bytes, Unit::Bytes), usage(found.inodes, Unit::Inodes)];
            Ok(csi::NodeGetVolumeStatsResponse { usage })
        };
        self.plugin.call(subject, work).await
    }

    async fn node_get_volume_health(
        &self,
        request: Request<csi::NodeGetVolumeHealthRequest>,
    ) -> Answer<csi::NodeGetVolumeHealthResponse> {
        let subject =
            Subject { rpc: "NodeGetVolumeHealth", volume: &request.get_ref().volume_id, pod: None, attributes: None };
        let work = async {
            let volume_health = Some(self.health(&request).await?);
            Ok(csi::NodeGetVolumeHealthResponse { volume_health })
        };
        self.plugin.call(subject, work).await
    }

    async fn node_get_capabilities(
        &self,
        _: Request<csi::NodeGetCapabilitiesRequest>,
    ) -> Answer<csi::NodeGetCapabilitiesResponse> {
        let offered = [Rpc::StageUnstageVolume, Rpc::GetVolumeStats, Rpc::SingleNodeMultiWriter, Rpc::GetVolumeHealth];
        let capabilities = offered
            .into_iter()
            .map(|rpc| csi::NodeServiceCapability {
                r#type: Some(csi::node_service_capability::Type::Rpc(csi::node_service_capability::Rpc {
                    r#type: rpc.into(),
                })),
            })
            .collect();
        let subject = Subject { rpc: "NodeGetCapabilities", volume: "", pod: None, attributes: None };
        self.plugin.call(subject, async { Ok(csi::NodeGetCapabilitiesResponse { capabilities }) }).await
    }

    async fn node_get_info(&self, request: Request<csi::NodeGetInfoRequest>) -> Answer<csi::NodeGetInfoResponse> {
        // This is the kubelet's first call, at registration. It is answered even if there are no mount threads for the
        // caller.
        let _ = self.plugin.pool_of(&request);
        let key = format!("{}/node", self.service().driver);
        let answer = csi::NodeGetInfoResponse {
            node_id: self.service().node_id.clone(),
            max_volumes_per_node: 0,
            accessible_topology: Some(csi::Topology {
                segments: HashMap::from([(key, self.service().node_id.clone())]),
            }),
        };
        self.plugin
            .call(Subject { rpc: "NodeGetInfo", volume: "", pod: None, attributes: None }, async { Ok(answer) })
            .await
    }
}
