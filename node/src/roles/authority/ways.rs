//! How codes reach addresses: by mail, by short messages, and by messages of SIP.

use std::sync::Arc;

use halloo_protocol::authority::{Refusal, RefusalCode};
use halloo_protocol::linked::{LinkedId, System};
use tokio::sync::Semaphore;
use tracing::warn;

use super::{Letter, Phones, SipCodes, refuse};
use crate::config::SmtpConfig;
use crate::mail::send::{Mail, send};

/// Codes on their way at once; the asker of one more hears that it was sent, as all do, and asks again.
const SENDING_MAX: usize = 16;

/// What an authority has to send codes by. Nothing: it sends none.
#[derive(Debug, Default)]
pub(crate) struct CodeWays {
    pub(crate) mail: Option<SmtpConfig>,
    pub(crate) phones: Option<Arc<Phones>>,
    pub(crate) sip: Option<Arc<SipCodes>>,
}

impl CodeWays {
    pub(crate) const fn is_empty(&self) -> bool {
        self.mail.is_none() && self.phones.is_none() && self.sip.is_none()
    }

    /// Whether a code can and may be sent to an address.
    ///
    /// # Errors
    /// A [`Refusal`].
    pub(crate) fn check(&self, address: &LinkedId) -> Result<(), Refusal> {
        let refused = |detail: &str| Err(refuse(RefusalCode::ADDRESS_KIND, detail));
        match address.system() {
            System::Mail if self.mail.is_some() => Ok(()),
            System::Sip if self.sip.is_some() => Ok(()),
            System::Phone => match &self.phones {
                Some(phones) if phones.is_allowed(address.address()) => Ok(()),
                Some(_) => refused("this authority sends no codes to numbers that begin so"),
                None => refused("this authority sends no codes to telephones"),
            },
            _ => refused("this authority sends no codes to such addresses"),
        }
    }

    /// Sends a code, in a task of its own. Whether it arrives isn't told: who asks may not be whose address it is.
    pub(crate) fn send(&self, letter: Letter, user: String) {
        static SENDING: Semaphore = Semaphore::const_new(SENDING_MAX);
        let Ok(permit) = SENDING.try_acquire() else {
            return warn!("too many codes are being sent: one isn't");
        };
        let (mail, phones, sip) = (self.mail.clone(), self.phones.clone(), self.sip.clone());
        tokio::spawn(async move {
            let sent = match (letter.to.system(), mail, phones, sip) {
                (System::Mail, Some(mail), ..) => send_mail(&mail, &letter, &user).await,
                (System::Phone, _, Some(phones), _) => phones.send(letter.to.address(), &letter.code, &user).await,
                (System::Sip, .., Some(sip)) => sip.send(&letter.to, &letter.code, &user).await,
                _ => Ok(()),
            };
            if let Err(error) = sent {
                warn!(error, "a code isn't sent");
            }
            drop(permit);
        });
    }
}

/// Most characters of a name in a short text.
const NAME_CHARS_MAX: usize = 40;

/// What a telephone gets, in one message. The code is the first run of so many digits, before the name, which its bearer has chosen.
pub(super) fn code_text(code: &str, user: &str, what: &str) -> String {
    let user: String = user.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect();
    format!("Halloo: the code is {code}. {user} wants to show that this {what} is theirs. If that isn't you, tell it to nobody.")
}

async fn send_mail(config: &SmtpConfig, letter: &Letter, user: &str) -> Result<(), String> {
    let text = format!(
        "{user} wants to show that this mail address is theirs.\n\nThe code is {}\n\nIf that isn't you, do nothing, and tell the code to nobody.\n",
        letter.code
    );
    let date = httpdate::fmt_http_date(std::time::SystemTime::now()).replace("GMT", "+0000");
    send(config, Mail { to: letter.to.address(), subject: "Your code", text: &text, date }).await
}
