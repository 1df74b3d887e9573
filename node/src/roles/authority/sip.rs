//! Codes to SIP addresses, by MESSAGE (RFC 3428) through the server of an account of the authority's.

use halloo_protocol::linked::{LinkedId, System};

use super::ways::code_text;
use crate::config::SipCodesConfig;
use crate::sip::agent::{Agent, AgentParams};

/// What sends codes to SIP addresses.
#[derive(Debug)]
pub(crate) struct SipCodes(AgentParams);

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
        let (user, domain) = from.address().split_once('@').unwrap_or_default();
        Ok(Self(AgentParams {
            user: user.to_owned(),
            domain: domain.to_owned(),
            server: Some(config.server.clone()),
            is_plain: !config.tls,
            roots: config.roots.clone(),
            auth_user: config.user.clone(),
            password,
        }))
    }

    /// Sends a code. Servers that fork pass it to every phone of the address.
    pub(crate) async fn send(&self, to: &LinkedId, code: &str, user: &str) -> Result<(), String> {
        let mut agent = Agent::connect(&self.0).await.map_err(|error| error.to_string())?;
        let text = code_text(code, user, "SIP address");
        agent.send_message(&to.to_string(), &text).await.map_err(|error| error.to_string())
    }
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
            from: "sip:codes@example.org".into(),
            user: None,
            password_file: None,
        };
        assert!(SipCodes::new(&good).is_ok());
        let refused = |config: SipCodesConfig| SipCodes::new(&config).unwrap_err();
        assert!(refused(SipCodesConfig { from: "codes".into(), ..good.clone() }).contains("sip.from"));
        assert!(refused(SipCodesConfig { server: "a b".into(), ..good.clone() }).contains("sip.server"));
        assert!(refused(SipCodesConfig { password_file: Some("/no/such".into()), ..good.clone() }).contains("password_file"));
        assert!(refused(SipCodesConfig { roots: Some("/no/such".into()), ..good }).contains("roots"));
    }
}
