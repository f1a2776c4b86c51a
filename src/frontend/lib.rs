//! Who calls: CSI and the kubelet's registration by gRPC, probes and metrics by HTTP. Nothing of a protocol is known below.
#![forbid(unsafe_code)]

pub mod admin;
pub mod csi;
pub mod kubelet;
pub mod registration;
pub mod socket;
