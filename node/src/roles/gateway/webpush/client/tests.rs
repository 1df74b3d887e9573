use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::Response;
use http::header::RETRY_AFTER;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tower_service::Service;

use super::*;
use crate::roles::gateway::http::{ANSWER_BYTES_MAX, ANSWER_HEAD_BYTES_MAX, TimedConnector, tls_config};
use crate::roles::gateway::webpush::{PLAINTEXT_BYTES_MAX, ReceiverKeys, decrypt};

const NOW: Duration = Duration::from_secs(1_800_000_000);

/// A device and where its push service listens.
struct Device {
    keys: ReceiverKeys,
    subscription: Subscription,
}

fn device(endpoint: &str) -> Device {
    let keys = ReceiverKeys::generate().unwrap();
    let subscription = Subscription::new(endpoint, keys.public_key(), *keys.auth()).unwrap();
    Device { keys, subscription }
}

fn config() -> WebPushConfig {
    let subject = "mailto:push@example.net".parse().unwrap();
    WebPushConfig::new(VapidKey::generate().unwrap(), subject)
}

fn lab_config() -> WebPushConfig {
    WebPushConfig { lab: true, ..config() }
}

fn client(config: WebPushConfig) -> WebPushClient {
    WebPushClient::new(config).unwrap()
}

async fn send(client: &WebPushClient, subscription: &Subscription) -> Result<Accepted, PushError> {
    client.send(subscription, b"wake up", 60, Urgency::High, None).await
}

type Answer = Response<Full<Bytes>>;

fn answer(status: u16) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    answer
}

/// A push service that counts its connections and gives each request to `handle`.
struct PushService {
    addr: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl PushService {
    async fn start<H, F>(tls: Option<ServerConfig>, handle: H) -> Self
    where
        H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = connections.clone();
        let tls = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                counter.fetch_add(1, Ordering::SeqCst);
                let (tls, handle) = (tls.clone(), handle.clone());
                let service = service_fn(move |request| {
                    let answer = handle(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                tokio::spawn(async move {
                    let Some(tls) = tls else {
                        let io = TokioIo::new(stream);
                        return http1::Builder::new().serve_connection(io, service).await;
                    };
                    // A client that refuses the certificate ends the handshake.
                    let Ok(stream) = tls.accept(stream).await else {
                        return Ok(());
                    };
                    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    let io = TokioIo::new(stream);
                    if is_http2 {
                        let server = http2::Builder::new(TokioExecutor::new());
                        server.serve_connection(io, service).await
                    } else {
                        http1::Builder::new().serve_connection(io, service).await
                    }
                });
            }
        });
        Self { addr, connections }
    }

    fn endpoint(&self) -> String {
        format!("http://{}/push/secret-path", self.addr)
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// A self-signed certificate for `localhost`, in DER, and a server that has it.
fn tls_server(protocols: &[&[u8]]) -> (Vec<u8>, ServerConfig) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    (cert.der().to_vec(), config)
}

#[tokio::test]
async fn a_message_arrives_with_the_headers_of_rfc_8030() {
    let (seen, mut requests) = mpsc::channel(1);
    let service = PushService::start(None, move |request: Request<Incoming>| {
        let seen = seen.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            seen.send((head, body)).await.unwrap();
            let mut accepted = answer(201);
            accepted.headers_mut().insert(TTL, HeaderValue::from_static("30"));
            accepted
        }
    })
    .await;
    let device = device(&service.endpoint());
    let topic = "call-7".parse().unwrap();
    let accepted = client(lab_config()).send(&device.subscription, b"wake up", 60, Urgency::High, Some(&topic)).await.unwrap();
    assert_eq!(accepted.ttl_secs, Some(30));

    let (head, body) = requests.recv().await.unwrap();
    assert_eq!(head.method, Method::POST);
    assert_eq!(head.uri, "/push/secret-path");
    assert_eq!(head.headers["host"], service.addr.to_string());
    assert_eq!(head.headers["ttl"], "60");
    assert_eq!(head.headers["urgency"], "high");
    assert_eq!(head.headers["topic"], "call-7");
    assert_eq!(head.headers["content-encoding"], "aes128gcm");
    assert_eq!(head.headers["content-length"], body.len().to_string());
    let authorization = head.headers["authorization"].to_str().unwrap();
    assert!(authorization.starts_with("vapid t="));
    assert_eq!(decrypt(&device.keys, &body).unwrap(), b"wake up");
}

#[tokio::test]
async fn each_answer_has_its_meaning() {
    let service = PushService::start(None, |request: Request<Incoming>| async move {
        let status = request.uri().path().trim_start_matches("/status/");
        let mut answer = answer(status.parse().unwrap());
        let location = HeaderValue::from_static("http://127.0.0.1:1/elsewhere");
        answer.headers_mut().insert("location", location);
        answer
    })
    .await;
    let client = client(lab_config());
    let a_minute = Duration::from_secs(60);
    let accepted = Ok(Accepted { ttl_secs: None });
    for (status, expected) in [
        (200, accepted),
        (201, accepted),
        (202, accepted),
        (204, accepted),
        (301, Err(PushError::Refused { status: 301 })),
        (302, Err(PushError::Refused { status: 302 })),
        (307, Err(PushError::Refused { status: 307 })),
        (308, Err(PushError::Refused { status: 308 })),
        (400, Err(PushError::Refused { status: 400 })),
        (401, Err(PushError::Refused { status: 401 })),
        (403, Err(PushError::Refused { status: 403 })),
        (404, Err(PushError::Gone)),
        (410, Err(PushError::Gone)),
        (413, Err(PushError::TooLarge)),
        (418, Err(PushError::Refused { status: 418 })),
        (429, Err(PushError::RetryAfter { after: a_minute })),
        (500, Err(PushError::Transient { status: 500 })),
        (502, Err(PushError::Transient { status: 502 })),
        (503, Err(PushError::Transient { status: 503 })),
        (599, Err(PushError::Transient { status: 599 })),
    ] {
        let endpoint = format!("http://{}/status/{status}", service.addr);
        let device = device(&endpoint);
        assert_eq!(send(&client, &device.subscription).await, expected, "{status}");
    }
    assert_eq!(service.connections(), 1, "one connection serves them all");
}

#[test]
fn retry_after_is_read_in_both_forms_and_limited() {
    let now = UNIX_EPOCH + NOW;
    let after = |text: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_str(text).unwrap());
        match read_answer(StatusCode::TOO_MANY_REQUESTS, &headers, now) {
            Err(PushError::RetryAfter { after }) => after.as_secs(),
            other => panic!("{other:?}"),
        }
    };
    let date = |offset: i64| {
        let seconds = NOW.as_secs().checked_add_signed(offset).unwrap();
        httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds))
    };
    assert_eq!(after("120"), 120);
    assert_eq!(after(" 7 "), 7);
    assert_eq!(after(&date(300)), 300);
    // A server that fails may say it too.
    let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static("30"))]);
    let unavailable = read_answer(StatusCode::SERVICE_UNAVAILABLE, &headers, now);
    assert_eq!(unavailable, Err(PushError::RetryAfter { after: Duration::from_secs(30) }));
    // Too short and too long.
    assert_eq!(after("0"), 1);
    assert_eq!(after(&date(-300)), 1);
    assert_eq!(after("90000"), 86_400);
    assert_eq!(after(&"9".repeat(40)), 86_400);
    assert_eq!(after(&date(90_000)), 86_400);
    // Not readable: as if it was not there.
    for text in ["", "soon", "-5", "1.5", "Fri, 32 Jan 2027 00:00:00 GMT"] {
        assert_eq!(after(text), 60, "{text:?}");
    }
}

#[tokio::test]
async fn a_payload_over_the_limit_is_not_sent() {
    let service = PushService::start(None, |_| async { answer(201) }).await;
    let device = device(&service.endpoint());
    let payload = vec![0; PLAINTEXT_BYTES_MAX + 1];
    let refused = client(lab_config()).send(&device.subscription, &payload, 60, Urgency::Normal, None).await;
    assert_eq!(refused, Err(PushError::TooLarge));
    assert_eq!(service.connections(), 0);
}

#[tokio::test]
async fn without_lab_nothing_is_sent_to_this_host() {
    let service = PushService::start(None, |_| async { answer(201) }).await;
    let port = service.addr.port();
    let client = client(config());
    for (endpoint, expected) in [
        (format!("http://127.0.0.1:{port}/a"), ForbiddenTarget::NotHttps),
        (format!("https://127.0.0.1:{port}/a"), ForbiddenTarget::Address),
        (format!("https://localhost:{port}/a"), ForbiddenTarget::Address),
        (format!("https://[::ffff:127.0.0.1]:{port}/a"), ForbiddenTarget::Address),
        ("https://localhost:22/a".to_owned(), ForbiddenTarget::Port { port: 22 }),
    ] {
        let device = device(&endpoint);
        let refused = send(&client, &device.subscription).await;
        let is_expected = match refused {
            Err(PushError::Forbidden(found)) => found == expected,
            _ => false,
        };
        assert!(is_expected, "{endpoint}: {refused:?}");
    }
    assert_eq!(service.connections(), 0, "not even a connection was made");
}

#[tokio::test]
async fn https_works_over_both_versions_of_http_and_keeps_its_connection() {
    for protocols in [&[b"h2".as_slice(), b"http/1.1"][..], &[b"http/1.1"]] {
        let (root, tls) = tls_server(protocols);
        let service = PushService::start(Some(tls), |request: Request<Incoming>| async move {
            let is_http2 = request.version() == http::Version::HTTP_2;
            let mut accepted = answer(201);
            let ttl = HeaderValue::from(if is_http2 { 2 } else { 1 });
            accepted.headers_mut().insert(TTL, ttl);
            accepted
        })
        .await;
        let device = device(&format!("https://localhost:{}/a", service.addr.port()));
        let client = client(WebPushConfig { extra_roots: vec![root], ..lab_config() });
        for _ in 0..3 {
            let accepted = send(&client, &device.subscription).await.unwrap();
            assert_eq!(accepted.ttl_secs, Some(if protocols.len() == 2 { 2 } else { 1 }));
        }
        assert_eq!(service.connections(), 1);
    }
}

#[tokio::test]
async fn a_certificate_that_no_root_vouches_for_is_refused() {
    let (_, tls) = tls_server(&[b"h2"]);
    let (other_root, _) = tls_server(&[b"h2"]);
    let service = PushService::start(Some(tls), |_| async { answer(201) }).await;
    let device = device(&format!("https://localhost:{}/a", service.addr.port()));
    for extra_roots in [vec![], vec![other_root]] {
        let client = client(WebPushConfig { extra_roots, ..lab_config() });
        assert_eq!(send(&client, &device.subscription).await, Err(PushError::Untrusted));
    }
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let (root, tls) = tls_server(&[b"h2"]);
    let service = PushService::start(Some(tls), |_| async { answer(201) }).await;
    // The certificate says `localhost`.
    let device = device(&format!("https://127.0.0.1:{}/a", service.addr.port()));
    let client = client(WebPushConfig { extra_roots: vec![root], ..lab_config() });
    assert_eq!(send(&client, &device.subscription).await, Err(PushError::Untrusted));
}

#[tokio::test]
async fn an_extra_root_that_is_no_certificate_is_named() {
    let (root, _) = tls_server(&[]);
    let refused = WebPushClient::new(WebPushConfig { extra_roots: vec![root, b"no certificate".to_vec()], ..config() });
    assert!(matches!(refused, Err(ClientError::RootCertificate { index: 1, .. })));
}

#[tokio::test]
async fn a_push_service_that_does_not_answer_is_given_up() {
    let service = PushService::start(None, |_| std::future::pending::<Answer>()).await;
    let device = device(&service.endpoint());
    let client = client(WebPushConfig { timeout: Duration::from_millis(200), ..lab_config() });
    assert_eq!(send(&client, &device.subscription).await, Err(PushError::Timeout));
}

#[tokio::test]
async fn a_stalled_tls_handshake_is_given_up_by_the_connector_itself() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("https://{}/a", listener.local_addr().unwrap());
    let guard = AddressGuard::new(true);
    let tls = tls_config(&[]).unwrap();
    let mut connector = TimedConnector::new(guard, tls, Duration::from_millis(100));
    let connecting = connector.call(uri.parse().unwrap());
    // Accepts, and says nothing.
    let (connected, stalled) = tokio::join!(connecting, listener.accept());
    assert!(connected.is_err_and(|error| error.is::<tokio::time::error::Elapsed>()));
    stalled.unwrap();
}

#[tokio::test]
async fn a_port_without_a_push_service_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let device = device(&format!("http://127.0.0.1:{port}/a"));
    assert_eq!(send(&client(lab_config()), &device.subscription).await, Err(PushError::Unreachable));
}

/// A server that reads some of the request and then says `answer`, byte for byte.
async fn raw_service(answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 64];
            stream.read_exact(&mut request).await.unwrap();
            // The client may hang up before all is written; that is what is tested.
            let _ = stream.write_all(&answer).await;
            let _ = stream.shutdown().await;
        }
    });
    addr
}

#[tokio::test]
async fn answers_that_are_no_http_or_have_no_end_are_interrupted() {
    let mut long_head = b"HTTP/1.1 201 Created\r\n".to_vec();
    while long_head.len() < 4 * ANSWER_HEAD_BYTES_MAX {
        long_head.extend_from_slice(b"X-Filler: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n");
    }
    for answer in [Vec::new(), b"SSH-2.0-OpenSSH_9\r\n".to_vec(), long_head] {
        let length = answer.len();
        let addr = raw_service(answer).await;
        let device = device(&format!("http://{addr}/a"));
        assert_eq!(
            send(&client(lab_config()), &device.subscription).await,
            Err(PushError::Interrupted),
            "answer of {length} bytes"
        );
    }
}

#[tokio::test]
async fn an_endless_answer_body_is_not_read_to_its_end() {
    let mut answer = b"HTTP/1.1 410 Gone\r\nContent-Length: 1000000000\r\n\r\n".to_vec();
    answer.resize(answer.len() + 4 * ANSWER_BYTES_MAX, b'a');
    let addr = raw_service(answer).await;
    let device = device(&format!("http://{addr}/a"));
    assert_eq!(send(&client(lab_config()), &device.subscription).await, Err(PushError::Gone));
}

/// Everything that is logged, at every level, by every crate.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn logs_and_errors_show_neither_endpoint_nor_token() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone()).finish();
    // The test's runtime has one thread: this one.
    let _guard = tracing::subscriber::set_default(subscriber);

    let service = PushService::start(None, |_| async { answer(403) }).await;
    let device = device(&service.endpoint());
    let client = client(lab_config());
    let refused = send(&client, &device.subscription).await.unwrap_err();
    let text = format!("{refused} {refused:?} {client:?} {device:?}", device = device.subscription);
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("push service answered"), "{log}");
    for secret in ["secret-path", "vapid t=", "eyJ"] {
        assert!(!log.contains(secret), "{secret} in {log}");
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}
