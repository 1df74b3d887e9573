use http::Request as HttpRequest;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::*;
use crate::roles::gateway::webpush::{
    PushError, ReceiverKeys, Subscription, Urgency, VapidKey, WebPushClient, WebPushConfig, decrypt,
};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

async fn service() -> (LocalPushService, mpsc::Receiver<Vec<u8>>) {
    LocalPushService::bind(LOOPBACK).await.unwrap()
}

fn gateway() -> WebPushClient {
    let subject = "mailto:push@example.net".parse().unwrap();
    let mut config = WebPushConfig::new(VapidKey::generate().unwrap(), subject);
    config.lab = true;
    WebPushClient::new(config).unwrap()
}

fn post_to(url: &str) -> http::request::Builder {
    HttpRequest::post(url).header("TTL", "60").header("Content-Encoding", "aes128gcm")
}

async fn status(request: http::request::Builder, body: &[u8]) -> StatusCode {
    answer(request, body).await.status()
}

async fn answer(request: http::request::Builder, body: &[u8]) -> http::Response<hyper::body::Incoming> {
    let client: Client<HttpConnector, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let request = request.body(Full::new(Bytes::copy_from_slice(body)));
    client.request(request.unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_gateways_message_reaches_the_device_still_encrypted() {
    let (service, mut messages) = service().await;
    let keys = ReceiverKeys::generate().unwrap();
    let endpoint = service.subscribe().unwrap();
    let subscription = Subscription::new(&endpoint, keys.public_key(), *keys.auth()).unwrap();

    let accepted = gateway().send(&subscription, b"wake up", 60, Urgency::High, None).await.unwrap();
    assert_eq!(accepted.ttl_secs, Some(0), "nothing is stored");
    let body = messages.recv().await.unwrap();
    assert!(!body.windows(7).any(|window| window == b"wake up"));
    assert_eq!(decrypt(&keys, &body).unwrap(), b"wake up");
}

#[tokio::test]
async fn an_accepted_message_has_a_location() {
    let (service, mut messages) = service().await;
    let answer = answer(post_to(&service.subscribe().unwrap()), b"body").await;
    assert_eq!(answer.status(), StatusCode::CREATED);
    let location = answer.headers()[LOCATION].to_str().unwrap();
    let origin = format!("http://{}/message/", service.local_addr());
    assert!(location.starts_with(&origin), "{location}");
    assert_eq!(messages.recv().await.unwrap(), b"body");
}

#[tokio::test]
async fn requests_that_are_no_push_messages_are_refused() {
    let (service, mut messages) = service().await;
    let endpoint = service.subscribe().unwrap();
    let post = || HttpRequest::post(&endpoint);
    for (what, request, expected) in [
        ("no TTL", post().header("Content-Encoding", "aes128gcm"), StatusCode::BAD_REQUEST),
        ("negative TTL", post().header("TTL", "-1").header("Content-Encoding", "aes128gcm"), StatusCode::BAD_REQUEST),
        ("no encoding", post().header("TTL", "0"), StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ("old encoding", post().header("TTL", "0").header("Content-Encoding", "aesgcm"), StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ("other method", HttpRequest::get(&endpoint), StatusCode::METHOD_NOT_ALLOWED),
    ] {
        assert_eq!(status(request, b"body").await, expected, "{what}");
    }
    let largest = status(post_to(&endpoint), &[0; BODY_BYTES_MAX]).await;
    assert_eq!(largest, StatusCode::CREATED);
    let too_large = status(post_to(&endpoint), &[0; BODY_BYTES_MAX + 1]).await;
    assert_eq!(too_large, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(messages.recv().await.unwrap().len(), BODY_BYTES_MAX);
    assert!(messages.try_recv().is_err(), "refused ones are not handed over");
}

#[tokio::test]
async fn only_paths_given_out_are_known() {
    let (service, _messages) = service().await;
    let endpoint = service.subscribe().unwrap();
    let origin = format!("http://{}", service.local_addr());
    for path in ["/", "/push/", "/push/AAAAAAAAAAAAAAAAAAAAAA", "/message/a"] {
        let url = format!("{origin}{path}");
        assert_eq!(status(post_to(&url), b"body").await, StatusCode::NOT_FOUND, "{path}");
    }
    assert_ne!(service.subscribe().unwrap(), endpoint);
    assert!(service.unsubscribe(&endpoint));
    assert!(!service.unsubscribe(&endpoint));
    assert!(!service.unsubscribe("https://example.net/push/a"));
    assert_eq!(status(post_to(&endpoint), b"body").await, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_device_that_is_behind_or_gone_shows_in_the_answer() {
    let (service, mut messages) = service().await;
    let keys = ReceiverKeys::generate().unwrap();
    let endpoint = service.subscribe().unwrap();
    let subscription = Subscription::new(&endpoint, keys.public_key(), *keys.auth()).unwrap();
    let gateway = gateway();
    let send = || gateway.send(&subscription, b"wake up", 60, Urgency::High, None);

    for _ in 0..QUEUE_MAX {
        send().await.unwrap();
    }
    let after = Duration::from_secs(1);
    assert_eq!(send().await, Err(PushError::RetryAfter { after }));
    messages.recv().await.unwrap();
    send().await.unwrap();

    drop(messages);
    assert_eq!(send().await, Err(PushError::Gone));
}

#[tokio::test]
async fn connections_over_the_limit_wait_for_their_turn() {
    let (service, mut messages) = service().await;
    let endpoint = service.subscribe().unwrap();
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        idle.push(TcpStream::connect(service.local_addr()).await.unwrap());
    }
    let waiting = tokio::spawn(async move { status(post_to(&endpoint), b"body").await });
    drop(idle);
    let served = timeout(READ_TIMEOUT, waiting).await.unwrap();
    assert_eq!(served.unwrap(), StatusCode::CREATED);
    assert_eq!(messages.recv().await.unwrap(), b"body");
}

#[tokio::test]
async fn subscriptions_are_limited() {
    let (service, _messages) = service().await;
    for _ in 0..SUBSCRIPTIONS_MAX {
        service.subscribe().unwrap();
    }
    assert_eq!(service.subscribe(), Err(SubscribeError::TooMany));
}

#[tokio::test]
async fn only_loopback_addresses_are_bound() {
    for addr in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let refused = LocalPushService::bind(addr.parse().unwrap()).await;
        assert!(matches!(refused, Err(BindError::NotLoopback { .. })), "{addr}");
    }
    let (service, _messages) = service().await;
    let taken = LocalPushService::bind(service.local_addr()).await;
    assert!(matches!(taken, Err(BindError::Io { .. })));
}

#[tokio::test]
async fn dropping_the_service_frees_its_address() {
    let (service, mut messages) = service().await;
    let addr = service.local_addr();
    drop(service);
    // The last sender goes with the service's task, and so does the listener.
    assert_eq!(messages.recv().await, None);
    let _again = LocalPushService::bind(addr).await.unwrap();
}

#[test]
fn debug_output_shows_no_endpoint() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (service, _messages) = service().await;
        let endpoint = service.subscribe().unwrap();
        let path = endpoint.rsplit_once('/').unwrap().1;
        assert!(!format!("{service:?}").contains(path));
    });
}
