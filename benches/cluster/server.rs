//! A real etcd and a real API server on this machine, which hold no nodes and run no pods, and clients of them.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use http::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use pods::client;
use serde_json::json;

/// How long the API server may take to start.
const STARTING: Duration = Duration::from_secs(120);

/// Who asks.
#[derive(Clone, Copy)]
pub(crate) enum User {
    /// A member of system:masters.
    Admin,
    /// The driver's service account, which all its plugins share.
    Driver,
}

impl User {
    const fn token(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Driver => "driver",
        }
    }
}

/// Both servers; ended, and their files removed, when it goes.
pub(crate) struct Server {
    dir: tempfile::TempDir,
    bin: PathBuf,
    feature_gates: Option<String>,
    port: u16,
    etcd_port: u16,
    etcd: Child,
    api: Option<Child>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill_api();
        end(&mut self.etcd);
    }
}

fn end(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Ends with this program, however that ends.
fn start(program: &Path, args: &[String], log: &Path) -> Child {
    let log = fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--"])
        .arg(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .expect("setpriv (util-linux) starts")
}

impl Server {
    pub(crate) async fn start(bin: &Path, feature_gates: Option<String>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (port, etcd_port, peers) = (free_port(), free_port(), free_port());
        let clients = format!("http://127.0.0.1:{etcd_port}");
        let peers = format!("http://127.0.0.1:{peers}");
        let args = [
            format!("--data-dir={}", dir.path().join("etcd").display()),
            "--unsafe-no-fsync".to_owned(),
            "--log-level=error".to_owned(),
            format!("--quota-backend-bytes={}", 8_u64 << 30),
            format!("--listen-client-urls={clients}"),
            format!("--advertise-client-urls={clients}"),
            format!("--listen-peer-urls={peers}"),
            format!("--initial-advertise-peer-urls={peers}"),
            format!("--initial-cluster=default={peers}"),
        ];
        let etcd = start(&bin.join("etcd"), &args, &dir.path().join("etcd.log"));
        let made = Command::new("openssl")
            .args(["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out"])
            .arg(dir.path().join("accounts.key"))
            .status()
            .expect("openssl starts");
        assert!(made.success(), "openssl makes a key");
        // As the authenticator of service accounts' tokens would say.
        let tokens = "admin,admin,admin,system:masters\n\
            driver,system:serviceaccount:hostmount:hostmount,driver,\"system:serviceaccounts,system:serviceaccounts:hostmount,system:authenticated\"\n";
        fs::write(dir.path().join("tokens.csv"), tokens).unwrap();
        let mut server = Self { dir, bin: bin.to_owned(), feature_gates, port, etcd_port, etcd, api: None };
        server.start_api().await;
        server
    }

    /// Starts the API server, and waits until it is ready.
    pub(crate) async fn start_api(&mut self) {
        let at = |name: &str| self.dir.path().join(name).display().to_string();
        let mut args = vec![
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
            format!("--secure-port={}", self.port),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            "--service-cluster-ip-range=10.0.0.0/16".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            // There are no service accounts but the one that the tokens' file knows.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--cert-dir={}", at("cert")),
            format!("--token-auth-file={}", at("tokens.csv")),
            format!("--service-account-key-file={}", at("accounts.key")),
            format!("--service-account-signing-key-file={}", at("accounts.key")),
        ];
        args.extend(self.feature_gates.as_ref().map(|gates| format!("--feature-gates={gates}")));
        self.api = Some(start(&self.bin.join("kube-apiserver"), &args, &self.dir.path().join("api.log")));
        let begun = Instant::now();
        while !self.ready().await {
            let ended = self.api.as_mut().unwrap().try_wait().unwrap();
            let tail = || {
                let log = fs::read_to_string(self.dir.path().join("api.log")).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                lines[lines.len().saturating_sub(20)..].join("\n")
            };
            assert!(ended.is_none() && begun.elapsed() < STARTING, "the API server does not start:\n{}", tail());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn ready(&self) -> bool {
        if !self.dir.path().join("cert/apiserver.crt").exists() {
            return false;
        }
        let client = self.client(User::Admin).await;
        // What is asked while it starts may never be answered.
        let asked = tokio::time::timeout(Duration::from_secs(2), self.get(&client, "/readyz")).await;
        asked.is_ok_and(|said| said.is_ok_and(|said| said == "ok"))
    }

    /// As if its machine had lost power.
    pub(crate) fn kill_api(&mut self) {
        if let Some(mut api) = self.api.take() {
            end(&mut api);
        }
    }

    /// A client with a connection of its own, made as `hostmount serve` makes its.
    pub(crate) async fn client(&self, user: User) -> Client {
        let config: Kubeconfig = serde_json::from_value(json!({
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.port),
                "certificate-authority": self.dir.path().join("cert/apiserver.crt"),
            }}],
            "users": [{"name": "u", "user": {"token": user.token()}}],
        }))
        .unwrap();
        client::of(Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap()).unwrap()
    }

    pub(crate) async fn get(&self, client: &Client, path: &str) -> kube::Result<String> {
        client.request_text(Request::get(path).body(Vec::new()).unwrap()).await
    }

    /// CPU seconds of the API server and of etcd, and their resident bytes.
    pub(crate) fn cost(&self) -> [Cost; 2] {
        [self.api.as_ref().unwrap().id(), self.etcd.id()].map(Cost::of)
    }
}

/// What a process has cost until now.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cost {
    /// Seconds.
    pub(crate) cpu: f64,
    /// MiB.
    pub(crate) resident: f64,
}

impl Cost {
    fn of(pid: u32) -> Self {
        // proc_pid_stat(5): utime and stime are the 14th and 15th field, in ticks of 10 ms, the name before in brackets.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        let ticks = |n: usize| fields[n - 3].parse::<f64>().unwrap();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kib: f64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
        Self { cpu: (ticks(14) + ticks(15)) / 100.0, resident: kib / 1024.0 }
    }
}
