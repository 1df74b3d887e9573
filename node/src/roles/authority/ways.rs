//! How codes reach addresses: by mail, by short messages, and by messages of SIP.

use std::sync::Arc;

use halloo_protocol::authority::{Refusal, RefusalCode, phone_code_text};
use halloo_protocol::linked::{LinkedId, System};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::warn;

use super::{Letter, Phones, SipCodes, refuse};
use crate::config::SmtpConfig;
use crate::mail::send::{Mail, send};

/// Codes on their way at once, by each of the ways: one that is slow takes nothing from the others. The asker of one more is refused.
const SENDING_MAX: usize = 16;

/// A place among the codes on their way; dropped, it is free.
#[must_use]
#[derive(Debug)]
pub(crate) struct Place(#[expect(dead_code, reason = "held until it is dropped")] OwnedSemaphorePermit);

/// What an authority has to send codes by. Nothing: it sends none.
#[derive(Debug, Default)]
pub(crate) struct CodeWays {
    mail: Option<SmtpConfig>,
    phones: Option<Arc<Phones>>,
    sip: Option<Arc<SipCodes>>,
    places: Places,
}

/// Who may still send, by each of the ways.
#[derive(Debug)]
struct Places {
    mail: Arc<Semaphore>,
    phones: Arc<Semaphore>,
    sip: Arc<Semaphore>,
}

impl Default for Places {
    fn default() -> Self {
        let places = || Arc::new(Semaphore::new(SENDING_MAX));
        Self { mail: places(), phones: places(), sip: places() }
    }
}

impl CodeWays {
    pub(crate) fn new(mail: Option<SmtpConfig>, phones: Option<Phones>, sip: Option<SipCodes>) -> Self {
        Self { mail, phones: phones.map(Arc::new), sip: sip.map(Arc::new), places: Places::default() }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.mail.is_none() && self.phones.is_none() && self.sip.is_none()
    }

    /// A place among the codes on their way to an address, if one can and may be sent there. Nothing is counted yet.
    ///
    /// # Errors
    /// A [`Refusal`].
    pub(crate) fn enter(&self, address: &LinkedId) -> Result<Place, Refusal> {
        self.check(address)?;
        let places = match address.system() {
            System::Phone => &self.places.phones,
            System::Sip => &self.places.sip,
            _ => &self.places.mail,
        };
        let full = || refuse(RefusalCode::RATE_LIMITED, "too many codes are being sent: try again in a minute");
        Arc::clone(places).try_acquire_owned().map(Place).map_err(|_| full())
    }

    fn check(&self, address: &LinkedId) -> Result<(), Refusal> {
        let refused = |detail: &str| Err(refuse(RefusalCode::ADDRESS_KIND, detail));
        match address.system() {
            System::Mail if self.mail.is_some() => Ok(()),
            System::Phone => self.check_number(address),
            System::Sip => match &self.sip {
                Some(sip) if !sip.is_allowed(address) => refused("this authority sends no codes to addresses of that domain"),
                // What costs money by telephone costs it this way too.
                Some(_) if address.is_dialled() => match address.dialled_number() {
                    Some(number) => self.check_number(&number),
                    None => refused("that SIP address looks like a telephone number without its country"),
                },
                Some(_) => Ok(()),
                None => refused("this authority sends no codes to such addresses"),
            },
            _ => refused("this authority sends no codes to such addresses"),
        }
    }

    fn check_number(&self, number: &LinkedId) -> Result<(), Refusal> {
        let refused = |detail: &str| Err(refuse(RefusalCode::ADDRESS_KIND, detail));
        match &self.phones {
            Some(phones) if phones.is_allowed(number.address()) => Ok(()),
            Some(_) => refused("this authority sends no codes to numbers that begin so"),
            None => refused("this authority sends no codes to telephones"),
        }
    }

    /// Sends a code, in a task of its own. Whether it arrives isn't told: who asks may not be whose address it is.
    pub(crate) fn send(&self, letter: Letter, user: String, place: Place) {
        let (mail, phones, sip) = (self.mail.clone(), self.phones.clone(), self.sip.clone());
        tokio::spawn(async move {
            let sent = match (letter.to.system(), mail, phones, sip) {
                (System::Mail, Some(mail), ..) => send_mail(&mail, &letter, &user).await,
                (System::Phone, _, Some(phones), _) => phones.send(letter.to.address(), &letter.code, &user).await,
                (System::Sip, .., Some(sip)) => sip.send(&letter, &shown(&user)).await,
                _ => Ok(()),
            };
            if let Err(error) = sent {
                warn!(error, "a code isn't sent");
            }
            drop(place);
        });
    }
}

/// Most characters of a user in a short text, and most of their authority.
const USER_CHARS_MAX: usize = 40;
const AUTHORITY_CHARS_MAX: usize = 28;

/// Besides letters and digits, what a short message may have in its alphabet of 7 bits (3GPP TS 23.038) at one place each; with anything else it has 70 characters.
const GSM_OTHERS: &str = "@£$¥èéùìòÇØøÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./:;<=>?¡ÄÖÑÜ§¿äöñüà";

/// What a telephone gets, in one message.
pub(super) fn short_text(code: &str, user: &str) -> String {
    let is_short = |c: char| c.is_ascii_alphanumeric() || GSM_OTHERS.contains(c);
    let user: String = shown(user).chars().map(|c| if is_short(c) { c } else { '?' }).collect();
    phone_code_text(code, &user)
}

/// A user for a short text: of a long one the name is cut and not who vouches for it.
fn shown(user: &str) -> String {
    let user: String = user.chars().filter(|c| !c.is_control()).collect();
    let (name, authority) = user.rsplit_once('@').map_or((user.as_str(), None), |(name, authority)| (name, Some(authority)));
    let authority: String = authority.into_iter().flat_map(|authority| "@".chars().chain(authority.chars())).collect();
    let authority = cut(&authority, AUTHORITY_CHARS_MAX);
    cut(name, USER_CHARS_MAX - authority.chars().count()) + &authority
}

/// At most so many characters; two dots say that there were more.
fn cut(text: &str, chars_max: usize) -> String {
    if text.chars().count() <= chars_max {
        return text.to_owned();
    }
    text.chars().take(chars_max - 2).chain("..".chars()).collect()
}

async fn send_mail(config: &SmtpConfig, letter: &Letter, user: &str) -> Result<(), String> {
    let text = format!(
        "{user} wants to show that this mail address is theirs.\n\nThe code is {}\n\nIf that isn't you, do nothing, and tell the code to nobody.\n",
        letter.code
    );
    let date = httpdate::fmt_http_date(std::time::SystemTime::now()).replace("GMT", "+0000");
    send(config, Mail { to: letter.to.address(), subject: "Your code", text: &text, date }).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{PhoneConfig, SipCodesConfig};

    fn ways(has_phones: bool) -> CodeWays {
        let phone = PhoneConfig {
            prefixes: vec!["+49".into()],
            refused: vec!["+49900".into()],
            command: ["send", "{number}", "{text}"].map(str::to_owned).to_vec(),
            ..PhoneConfig::default()
        };
        let sip = SipCodesConfig {
            server: "127.0.0.1:5060".into(),
            tls: false,
            roots: None,
            domains: vec!["pbx.example".into()],
            from: "codes@pbx.example".into(),
            user: None,
            password_file: None,
        };
        let phones = has_phones.then(|| Phones::new(&phone, false).unwrap());
        CodeWays::new(None, phones, Some(SipCodes::new(&sip).unwrap()))
    }

    fn code_of(ways: &CodeWays, address: &str) -> Option<RefusalCode> {
        ways.check(&address.parse().unwrap()).err().map(|refusal| refusal.code)
    }

    #[tokio::test]
    async fn no_number_is_reached_by_way_of_sip_that_isnt_by_telephone() {
        let (with, without) = (ways(true), ways(false));
        for (address, with_phones, without_phones) in [
            ("sip:alice@pbx.example", true, true),
            ("sip:101@pbx.example", true, true),
            ("sip:alice@other.example", false, false),
            ("sip:alice@pbx.example:5070", false, false),
            ("sip:alice@192.0.2.1", false, false),
            ("sip:+4930123456@pbx.example", true, false),
            ("sip:+49900123456@pbx.example", false, false),
            ("sip:0049-900-123456@pbx.example", false, false),
            ("sip:49900123456@pbx.example", false, false),
            ("sip:0900123456@pbx.example", false, false),
            ("sip:+1900555010@pbx.example", false, false),
            ("tel:+49900123456", false, false),
            ("mailto:alice@pbx.example", false, false),
        ] {
            let refusal = |is_sent: bool| (!is_sent).then_some(RefusalCode::ADDRESS_KIND);
            assert_eq!(code_of(&with, address), refusal(with_phones), "{address}");
            assert_eq!(code_of(&without, address), refusal(without_phones), "{address}, no telephones");
        }
    }

    #[tokio::test]
    async fn a_way_that_is_full_refuses_and_leaves_the_others_alone() {
        let ways = ways(true);
        let sip = "sip:alice@pbx.example".parse().unwrap();
        let places: Vec<Place> = (0..SENDING_MAX).map(|_| ways.enter(&sip).unwrap()).collect();
        assert_eq!(ways.enter(&sip).unwrap_err().code, RefusalCode::RATE_LIMITED);
        assert!(ways.enter(&"tel:+4930123456".parse().unwrap()).is_ok());
        drop(places);
        assert!(ways.enter(&sip).is_ok());
    }

    #[test]
    fn a_short_text_is_one_message_and_says_who_vouches() {
        let longest = short_text("01234567", &format!("{}@{}", "n".repeat(300), "a".repeat(300)));
        assert!(longest.len() <= 160, "{longest}");
        let text = short_text("01234567", &format!("{}@example.org", "n".repeat(300)));
        assert!(text.contains("nn..@example.org wants") && text.len() <= 160, "{text}");
        let text = short_text("01234567", "J\u{fc}rgen\u{202e}\n{[\u{430}]}@b\u{fc}cher");
        assert!(text.starts_with("Halloo: the code is 01234567. J\u{fc}rgen??????@b\u{fc}cher wants"), "{text}");
        assert_eq!(shown("alice@example"), "alice@example");
        assert_eq!(shown(&"k".repeat(300)).chars().count(), USER_CHARS_MAX);
    }
}
