//! The front-ends: CSI and the kubelet's registration by gRPC, probes and metrics by HTTP. The crates below know no
//! protocol.
#![forbid(unsafe_code)]

pub mod admin;
pub mod csi;
pub mod kubelet;
pub mod registration;
pub mod socket;
