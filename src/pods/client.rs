//! The client of the API server.

/// Why there is no client of the API server.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No configuration was found.
    #[error(transparent)]
    Config(#[from] kube::config::InferConfigError),
    /// The configuration can't be used.
    #[error(transparent)]
    Client(#[from] kube::Error),
}

/// A client by `KUBECONFIG`, or of the cluster that this runs in.
///
/// # Errors
/// [`ClientError`].
pub async fn infer() -> Result<kube::Client, ClientError> {
    of(kube::Config::infer().await?)
}

/// A client of the API server that does not retry. The watch and the kubelet have their own back-offs. A client that
/// retries for half a minute would only hide the error.
///
/// # Errors
/// [`ClientError::Client`].
pub fn of(mut config: kube::Config) -> Result<kube::Client, ClientError> {
    config.default_retry = false;
    Ok(kube::Client::try_from(config)?)
}
