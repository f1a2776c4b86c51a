//! The part of an API server that the plugin uses, in this process: pods listed and watched, PersistentVolumes read.
//!
//! It stands in for the real one where the test has to decide when a pod becomes known, or that a request fails; the
//! e2e has the real one. It counts what it is asked.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

#[derive(Default)]
struct State {
    pods: BTreeMap<String, Value>,
    volumes: BTreeMap<String, Value>,
    /// What a watch tells, in order.
    events: Vec<Value>,
    /// How many of them are too old to be asked for.
    compacted: usize,
    /// How often was asked, by what.
    asked: BTreeMap<&'static str, usize>,
    /// The questions about pods, word by word.
    questions: Vec<String>,
    /// Events that were created.
    created: Vec<Value>,
    /// All requests fail, and watches end.
    down: bool,
}

#[derive(Clone)]
pub(crate) struct Api {
    state: Arc<Mutex<State>>,
    pub(crate) url: String,
}

impl Api {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let api = Self { state: Arc::default(), url };
        let serving = api.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let api = serving.clone();
                // Ends with an error when the client goes away.
                std::thread::spawn(move || drop(api.serve(&stream.unwrap())));
            }
        });
        api
    }

    /// A kubeconfig that leads here.
    pub(crate) fn kubeconfig(&self) -> String {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "clusters": [{"name": "c", "cluster": {"server": self.url}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        })
        .to_string()
    }

    pub(crate) fn add(&self, pod: Value) {
        let mut state = self.state.lock().unwrap();
        let uid = pod["metadata"]["uid"].as_str().unwrap().to_owned();
        let kind = if state.pods.contains_key(&uid) { "MODIFIED" } else { "ADDED" };
        state.events.push(json!({"type": kind, "object": pod}));
        state.pods.insert(uid, pod);
    }

    #[allow(dead_code, reason = "not every test has pods that end")]
    pub(crate) fn remove(&self, uid: &str) {
        let mut state = self.state.lock().unwrap();
        let pod = state.pods.remove(uid).unwrap();
        state.events.push(json!({"type": "DELETED", "object": pod}));
    }

    /// Forgets what it has told, as an API server does every few minutes: who watches has to list anew.
    #[allow(dead_code, reason = "not every test needs it")]
    pub(crate) fn compact(&self) {
        let mut state = self.state.lock().unwrap();
        state.events.push(Value::Null);
        state.compacted = state.events.len();
    }

    /// Without telling anybody: who watches has to start anew, as after a long time without connection.
    #[allow(dead_code, reason = "not every test loses its watch")]
    pub(crate) fn forget_silently(&self, uid: &str) {
        let mut state = self.state.lock().unwrap();
        state.pods.remove(uid);
        state.events.push(json!({"type": "DELETED", "object": {}}));
        state.compacted = state.events.len();
    }

    pub(crate) fn bind(&self, volume: &str, namespace: &str, claim: &str) {
        let object = json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume},
            "spec": {"claimRef": {"namespace": namespace, "name": claim}},
        });
        self.state.lock().unwrap().volumes.insert(volume.to_owned(), object);
    }

    pub(crate) fn down(&self, down: bool) {
        self.state.lock().unwrap().down = down;
    }

    pub(crate) fn asked(&self) -> BTreeMap<&'static str, usize> {
        self.state.lock().unwrap().asked.clone()
    }

    pub(crate) fn questions(&self) -> Vec<String> {
        self.state.lock().unwrap().questions.clone()
    }

    #[allow(dead_code, reason = "not every test looks at events")]
    pub(crate) fn created(&self) -> Vec<Value> {
        self.state.lock().unwrap().created.clone()
    }

    fn serve(&self, stream: &TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
            let mut length = 0;
            while line.trim_end() != "" {
                line.clear();
                reader.read_line(&mut line)?;
                if let Some((name, value)) = line.split_once(':')
                    && name.eq_ignore_ascii_case("content-length")
                {
                    length = value.trim().parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body)?;
            self.answer(&path, &body, stream)?;
        }
    }

    fn answer(&self, path: &str, body: &[u8], mut stream: &TcpStream) -> std::io::Result<()> {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let watching = query.contains("watch=true");
        let mut send = |code: &str, body: &Value| {
            let body = body.to_string();
            let head =
                format!("HTTP/1.1 {code}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all((head + &body).as_bytes())
        };
        let failure = |code: u16, why: &str| json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": why, "reason": why, "code": code});
        let mut state = self.state.lock().unwrap();
        let kind = match path.strip_prefix("/api/v1/persistentvolumes/") {
            _ if path.ends_with("/events") => "create event",
            Some(_) => "get PersistentVolume",
            None if watching => "watch pods",
            None => "list pods",
        };
        *state.asked.entry(kind).or_default() += 1;
        if state.down {
            return send("503 Service Unavailable", &failure(503, "the server is down"));
        }
        if kind == "create event" {
            let event: Value = serde_json::from_slice(body).unwrap();
            let namespace = event["metadata"]["namespace"].as_str().unwrap();
            assert_eq!(path, format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events"));
            if state.created.iter().any(|other| other["metadata"]["name"] == event["metadata"]["name"]) {
                return send("409 Conflict", &failure(409, "AlreadyExists"));
            }
            state.created.push(event.clone());
            return send("201 Created", &event);
        }
        if let Some(name) = path.strip_prefix("/api/v1/persistentvolumes/") {
            return match state.volumes.get(name) {
                Some(volume) => send("200 OK", volume),
                None => send("404 Not Found", &failure(404, "NotFound")),
            };
        }
        assert_eq!(path, "/api/v1/pods", "nothing else is needed, so nothing else may be asked");
        state.questions.push(query.to_owned());
        let version = state.events.len();
        if !watching {
            let items: Vec<_> = state.pods.values().collect();
            return send(
                "200 OK",
                &json!({"kind": "PodList", "apiVersion": "v1",
                "metadata": {"resourceVersion": version.to_string()}, "items": items}),
            );
        }
        drop(state);
        let from = query.split('&').find_map(|q| q.strip_prefix("resourceVersion=")?.parse().ok()).unwrap_or(0);
        self.watch(from, stream)
    }

    fn watch(&self, from: usize, mut stream: &TcpStream) -> std::io::Result<()> {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        let mut told = from;
        loop {
            let (events, down) = {
                let state = self.state.lock().unwrap();
                let expired = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410,
                    "reason": "Expired", "message": "too old resource version"});
                let events = if told < state.compacted {
                    vec![json!({"type": "ERROR", "object": expired})]
                } else {
                    state.events[told..].to_vec()
                };
                (events, state.down)
            };
            if down {
                return stream.write_all(b"0\r\n\r\n");
            }
            told += events.len();
            for event in events {
                // In the order in which an API server writes them.
                let line = format!("{{\"type\":{},\"object\":{}}}\n", event["type"], event["object"]);
                write!(stream, "{:x}\r\n{line}\r\n", line.len())?;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
