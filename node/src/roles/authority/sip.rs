//! Codes to SIP addresses, by MESSAGE (RFC 3428) through the server of an account of the authority's.

use std::collections::BTreeSet;

use halloo_protocol::authority::sip_code_text;
use halloo_protocol::linked::{LinkedId, System};

use super::Letter;
use crate::config::SipCodesConfig;
use crate::sip::agent::{Agent, AgentParams};

/// Domains in the configuration.
const DOMAINS_MAX: usize = 512;

/// What sends codes to SIP addresses.
#[derive(Debug)]
pub(crate) struct SipCodes {
    account: AgentParams,
    /// With their ports, in the one spelling of addresses.
    domains: BTreeSet<String>,
}

impl SipCodes {
    /// As the configuration says.
    ///
    /// # Errors
    /// What can't be used, by its setting's name.
    pub(crate) fn new(config: &SipCodesConfig) -> Result<Self, String> {
        let named = |setting: &str, reason: &str| format!("authority.sip.{setting}: {reason}");
        let from = config.from.strip_prefix("sip:").unwrap_or(&config.from);
        let from = LinkedId::new(System::Sip, from).map_err(|_| named("from", "expected an address as halloo@example.org"))?;
        halloo_protocol::sip::uri::host_port_of(&config.server).map_err(|error| named("server", &error.to_string()))?;
        let password = config.password_file.as_deref().map(crate::mail::password).transpose();
        let password = password.map_err(|error| named("password_file", &error))?.unwrap_or_default();
        if password.contains(char::is_control) {
            return Err(named("password_file", "more than a line"));
        }
        if let Some(roots) = &config.roots {
            crate::builder::web_roots(roots).map_err(|error| format!("authority.sip.{error}"))?;
        }
        let domains = domains(&config.domains).map_err(|reason| named("domains", reason))?;
        let (user, domain) = from.address().split_once('@').unwrap_or_default();
        let account = AgentParams {
            user: user.to_owned(),
            domain: domain.to_owned(),
            server: Some(config.server.clone()),
            is_plain: !config.tls,
            roots: config.roots.clone(),
            auth_user: config.user.clone(),
            password,
        };
        Ok(Self { account, domains })
    }

    /// Whether a code may be sent to an address: its domain is named, whatever its user is.
    pub(crate) fn is_allowed(&self, address: &LinkedId) -> bool {
        address.address().split_once('@').is_some_and(|(_, domain)| self.domains.contains(domain))
    }

    /// Sends a code. Servers that fork pass it to every phone of the address.
    pub(crate) async fn send(&self, letter: &Letter, user: &str) -> Result<(), String> {
        let mut agent = Agent::connect(&self.account).await.map_err(|error| error.to_string())?;
        let text = sip_code_text(&letter.code, user, letter.tag.as_ref());
        agent.send_message(&letter.to.to_string(), &text).await.map_err(|error| error.to_string())
    }
}

fn domains(named: &[String]) -> Result<BTreeSet<String>, &'static str> {
    if named.is_empty() {
        return Err("name the domains of the addresses that codes are sent to, as in [\"example.org\"]");
    }
    if named.len() > DOMAINS_MAX {
        return Err("at most 512");
    }
    let domain = |text: &String| {
        let id = LinkedId::new(System::Sip, &format!("x@{text}")).ok()?;
        id.address().strip_prefix("x@").map(str::to_owned)
    };
    named.iter().map(domain).collect::<Option<_>>().ok_or("expected hosts as addresses have them: example.org")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_named() {
        let good = SipCodesConfig {
            server: "sip.example.org".into(),
            tls: true,
            roots: None,
            domains: vec!["Example.org".into(), "pbx.example:5070".into(), "192.0.2.1".into()],
            from: "sip:codes@example.org".into(),
            user: None,
            password_file: None,
        };
        let codes = SipCodes::new(&good).unwrap();
        for (address, is_allowed) in [
            ("sip:alice@example.org", true),
            ("sip:alice@pbx.example:5070", true),
            ("sip:alice@192.0.2.1", true),
            ("sip:alice@sub.example.org", false),
            ("sip:alice@evil-example.org", false),
            ("sip:alice@example.org:5060", false),
            ("sip:alice@pbx.example", false),
            ("sip:alice@192.0.2.2", false),
            ("sip:alice@[2001:db8::1]", false),
        ] {
            assert_eq!(codes.is_allowed(&address.parse().unwrap()), is_allowed, "{address}");
        }
        let refused = |config: SipCodesConfig| SipCodes::new(&config).unwrap_err();
        assert!(refused(SipCodesConfig { from: "codes".into(), ..good.clone() }).contains("sip.from"));
        for domains in [vec![], vec!["sip:example.org".into()], vec!["*".into()], vec!["a@b".into()], vec!["a".into(); 513]] {
            assert!(refused(SipCodesConfig { domains, ..good.clone() }).contains("sip.domains"));
        }
        assert!(refused(SipCodesConfig { server: "a b".into(), ..good.clone() }).contains("sip.server"));
        assert!(refused(SipCodesConfig { password_file: Some("/no/such".into()), ..good.clone() }).contains("password_file"));
        assert!(refused(SipCodesConfig { roots: Some("/no/such".into()), ..good }).contains("roots"));
    }
}
