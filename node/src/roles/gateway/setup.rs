//! Makes the services of a gateway from its settings. Whatever can't be used stops the start, with the setting's name.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use zeroize::Zeroizing;

use super::apns::{ApnsClient, ProviderTokens};
use super::channel::Services;
use super::fcm::{FcmClient, ServiceAccount};
use super::sms::SmsClient;
use super::webhook::WebhookClient;
use super::webpush::{VapidKey, VapidSubject, WebPushClient, WebPushConfig};
use crate::config::{ApnsConfig, FcmConfig, GatewayConfig};

/// Who is answerable for the pushes (RFC 8292 section 2.1), unless the operator names somebody.
const CONTACT: &str = "mailto:gateway@localhost";

/// Largest file that is read: keys, and lists of certificates.
const FILE_BYTES_MAX: u64 = 1_024 * 1_024;

/// The services that are configured, and those that need no configuration. What can't be used is named in the error.
pub(super) fn services(config: &GatewayConfig, key: VapidKey, is_lab: bool) -> Result<Services, String> {
    let roots = config.roots.as_deref().map(read_roots).transpose()?.unwrap_or_default();
    let contact = config.contact.as_deref().unwrap_or(CONTACT);
    let contact: VapidSubject = contact.parse().map_err(|error| named("gateway.contact", error))?;
    let web_push = WebPushConfig { lab: is_lab, extra_roots: roots.clone(), ..WebPushConfig::new(key, contact) };
    Ok(Services {
        web_push: Arc::new(WebPushClient::new(web_push).map_err(|error| named("gateway.roots", error))?),
        webhook: Arc::new(WebhookClient::new(is_lab, &roots).map_err(|error| named("gateway.roots", error))?),
        fcm: config.fcm.as_ref().map(|fcm| self::fcm(fcm, &roots)).transpose()?.map(Arc::new),
        apns: config.apns.as_ref().map(|apns| self::apns(apns, &roots)).transpose()?.map(Arc::new),
        sms: config
            .sms
            .as_ref()
            .map(|sms| SmsClient::new(sms, is_lab, &roots).map_err(|error| named("gateway.sms", error)))
            .transpose()?
            .map(Arc::new),
        sip: None,
    })
}

fn fcm(config: &FcmConfig, roots: &[Vec<u8>]) -> Result<FcmClient, String> {
    const SETTING: &str = "gateway.fcm.service_account";
    let json = read(SETTING, &config.service_account)?;
    let account = ServiceAccount::from_json(&json)
        .map_err(|error| named(SETTING, format!("{}: {error}", config.service_account.display())))?;
    FcmClient::new(account, config.endpoint.as_deref(), roots).map_err(|error| named("gateway.fcm", error))
}

fn apns(config: &ApnsConfig, roots: &[Vec<u8>]) -> Result<ApnsClient, String> {
    let pem = read("gateway.apns.key_file", &config.key_file)?;
    let pem = std::str::from_utf8(&pem).map_err(|_| named("gateway.apns.key_file", "not a text file"))?;
    let tokens = ProviderTokens::new(pem, &config.key_id, &config.team_id).map_err(|error| named("gateway.apns", error))?;
    ApnsClient::new(tokens, config.endpoint.as_deref(), config.sandbox_endpoint.as_deref(), roots)
        .map_err(|error| named("gateway.apns", error))
}

/// TLS to the shared database.
pub(super) fn database_tls(config: &GatewayConfig) -> Result<rustls::ClientConfig, String> {
    let roots = config.roots.as_deref().map(read_roots).transpose()?.unwrap_or_default();
    super::http::tls_config(&roots).map_err(|error| named("gateway.roots", error))
}

/// The password for the shared database, if a file holds it.
pub(super) fn database_password(config: &GatewayConfig) -> Result<Option<Zeroizing<String>>, String> {
    const SETTING: &str = "gateway.database_password_file";
    let Some(path) = &config.database_password_file else { return Ok(None) };
    let bytes = read(SETTING, path)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| named(SETTING, "not a text file"))?;
    Ok(Some(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned())))
}

fn read_roots(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    let pem = read("gateway.roots", path)?;
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(&pem).map(|found| found.map(|certificate| certificate.to_vec())).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(named("gateway.roots", format!("{}: no certificate in it", path.display()))),
        Err(error) => Err(named("gateway.roots", format!("{}: {error}", path.display()))),
    }
}

fn read(setting: &str, path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let fail = |reason: String| named(setting, format!("{}: {reason}", path.display()));
    let length = std::fs::metadata(path).map_err(|error| fail(error.to_string()))?.len();
    if length > FILE_BYTES_MAX {
        return Err(fail(format!("{length} bytes, at most {FILE_BYTES_MAX}")));
    }
    std::fs::read(path).map(Zeroizing::new).map_err(|error| fail(error.to_string()))
}

fn named(setting: &str, error: impl Display) -> String {
    format!("{setting}: {error}")
}

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};

    use super::*;
    use crate::config::SmsConfig;

    fn refused(config: &GatewayConfig) -> String {
        services(config, VapidKey::generate().unwrap(), false).map(|_| ()).unwrap_err()
    }

    #[tokio::test]
    async fn what_cannot_be_used_is_named() {
        let home = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            let path = home.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let none = GatewayConfig::default();
        assert!(services(&none, VapidKey::generate().unwrap(), false).is_ok());
        assert!(refused(&GatewayConfig { contact: Some("me".into()), ..none.clone() }).starts_with("gateway.contact: "));
        let missing = GatewayConfig { roots: Some(home.path().join("none.pem")), ..none.clone() };
        assert!(refused(&missing).starts_with("gateway.roots: "), "{}", refused(&missing));
        let empty = GatewayConfig { roots: Some(file("empty.pem", "")), ..none.clone() };
        assert!(refused(&empty).contains("no certificate in it"));

        let fcm = |content| GatewayConfig {
            fcm: Some(FcmConfig { service_account: file("fcm.json", content), endpoint: None }),
            ..GatewayConfig::default()
        };
        for (content, word) in [
            ("{}", "missing field"),
            (
                r#"{"type":"authorized_user","project_id":"p","private_key_id":"k","private_key":"x","client_email":"e","token_uri":"u"}"#,
                "service_account",
            ),
            (
                r#"{"type":"service_account","project_id":"../p","private_key_id":"k","private_key":"x","client_email":"e","token_uri":"u"}"#,
                "project_id",
            ),
            (
                r#"{"type":"service_account","project_id":"p","private_key_id":"k","private_key":"x","client_email":"e","token_uri":"http://t/"}"#,
                "token_uri",
            ),
            (
                r#"{"type":"service_account","project_id":"p","private_key_id":"k","private_key":"x","client_email":"e","token_uri":"https://t/"}"#,
                "PKCS#8",
            ),
        ] {
            let text = refused(&fcm(content));
            assert!(text.starts_with("gateway.fcm.service_account: ") && text.contains(word), "{text}");
            assert!(!text.contains("\"x\""), "no key in an error: {text}");
        }

        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
        let apns = |key: &str, key_id: &str, endpoint: Option<&str>| GatewayConfig {
            apns: Some(ApnsConfig {
                key_file: file("key.p8", key),
                key_id: key_id.into(),
                team_id: "DEF123GHIJ".into(),
                endpoint: endpoint.map(Into::into),
                sandbox_endpoint: None,
            }),
            ..GatewayConfig::default()
        };
        assert!(services(&apns(&key, "ABC123DEFG", None), VapidKey::generate().unwrap(), false).is_ok());
        assert!(refused(&apns(&key, "short", None)).contains("key_id"));
        assert!(refused(&apns("no key", "ABC123DEFG", None)).contains("PKCS#8"));
        assert!(refused(&apns(&key, "ABC123DEFG", Some("http://127.0.0.1:1"))).contains("endpoint"));
        let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().serialize_pem();
        assert!(refused(&apns(&ed25519, "ABC123DEFG", None)).contains("P-256"));

        let sms = SmsConfig {
            url: "https://sms.example".into(),
            method: None,
            headers: Default::default(),
            body: String::new(),
            per_hour_max: 1,
            ..SmsConfig::default()
        };
        assert!(refused(&GatewayConfig { sms: Some(sms), ..none }).starts_with("gateway.sms: "));
    }
}
