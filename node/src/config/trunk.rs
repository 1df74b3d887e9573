//! `[sip.trunk.NAME]` and `[sip.dialling]`: accounts at telephone providers, and how numbers are dialled.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use halloo_protocol::trunk::guard::{Limit, Limits, PrefixLimit};
use halloo_protocol::trunk::number::{DialPlan, Dialled, EMERGENCY_NUMBERS, Pattern};
use halloo_protocol::trunk::{CallerId, Plan, TrunkRule};
use serde::Deserialize;

use super::sip::SipConfig;

/// Most trunks of a gateway.
const TRUNKS_MAX: usize = 8;

/// Most users, patterns, prefixes and mapped numbers of a trunk.
const NAMED_MAX: usize = 100;
const PREFIXES_MAX: usize = 32;

/// How numbers are dialled where the gateway is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiallingConfig {
    /// The country's code, `49`. Without it only international numbers can be dialled.
    pub country: Option<String>,
    /// What stands before another country's code.
    pub international_prefix: String,
    /// What stands before an area's code; may be empty.
    pub national_prefix: String,
    /// The area's code without the prefix, for numbers that are dialled without one.
    pub area: Option<String>,
    /// Numbers that get help: refused unless a trunk is set up for them.
    pub emergency_numbers: Vec<String>,
}

impl Default for DiallingConfig {
    fn default() -> Self {
        let emergency_numbers = EMERGENCY_NUMBERS.iter().map(ToString::to_string).collect();
        let (international_prefix, national_prefix) = ("00".to_owned(), "0".to_owned());
        Self { country: None, international_prefix, national_prefix, area: None, emergency_numbers }
    }
}

/// How a provider is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrunkTransport {
    /// Datagrams.
    #[default]
    Udp,
    /// A connection.
    Tcp,
    /// An encrypted connection.
    Tls,
}

impl TrunkTransport {
    /// Its name in the file and in lists.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }
}

/// A limit for numbers that begin so, all users together.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrefixConfig {
    /// `+49900`
    pub prefix: String,
    /// Calls a day; 0 forbids the prefix.
    pub calls_per_day: Option<u32>,
    /// Minutes a day.
    pub minutes_per_day: Option<u32>,
}

/// An account at a telephone provider.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrunkConfig {
    /// `HOST` or `HOST:PORT` of the provider's server.
    pub server: String,
    /// How it is spoken to.
    #[serde(default)]
    pub transport: TrunkTransport,
    /// With UDP, the address that requests leave from and come to; by default any, and a port that is free.
    pub listen: Option<SocketAddr>,
    /// The domain in addresses there; by default the server's name.
    pub domain: Option<String>,
    /// The account's name there.
    pub username: String,
    /// The name for credentials, where that is another one.
    pub auth_username: Option<String>,
    /// A file with the password alone, readable by its owner alone.
    pub password_file: Option<PathBuf>,
    /// A PEM file with certificates trusted besides Mozilla's list.
    pub roots: Option<PathBuf>,
    /// Whether to register there: else the provider knows this machine's address.
    #[serde(default = "yes")]
    pub register: bool,
    /// The lower, the earlier it is tried; equal ones by name.
    #[serde(default = "priority")]
    pub priority: u32,
    /// Numbers that it carries.
    #[serde(default = "all_numbers")]
    pub patterns: Vec<String>,
    /// Users who may call by it, `name@authority`. Nobody else may.
    #[serde(default)]
    pub callers: Vec<String>,
    /// Whether emergency numbers go there.
    #[serde(default)]
    pub emergency: bool,
    /// The number that callers are shown as, or `anonymous`; by default the provider fills in the account's.
    pub caller_id: Option<String>,
    /// The same for single users.
    #[serde(default)]
    pub caller_ids: BTreeMap<String, String>,
    /// Calls a day, all users together.
    pub calls_per_day: Option<u32>,
    /// Minutes a day, all users together.
    pub minutes_per_day: Option<u32>,
    /// Calls a day of each user.
    pub user_calls_per_day: Option<u32>,
    /// Minutes a day of each user.
    pub user_minutes_per_day: Option<u32>,
    /// Limits for numbers that begin so.
    #[serde(default)]
    pub prefixes: Vec<PrefixConfig>,
    /// Whom calls to a number of the account's ring at.
    #[serde(default)]
    pub inbound: BTreeMap<String, String>,
    /// Addresses from which the provider sends calls, besides the server's.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
}

const fn yes() -> bool {
    true
}

const fn priority() -> u32 {
    10
}

fn all_numbers() -> Vec<String> {
    vec!["+*".to_owned()]
}

impl SipConfig {
    /// What the owner has said of trunks, and their names in the plan's order. `None` without a trunk.
    ///
    /// # Errors
    /// Which setting can't be used, and why.
    pub(crate) fn plan(&self) -> Result<Option<(Plan, Vec<&str>)>, String> {
        if self.trunk.is_empty() {
            return match &self.telephone {
                Some(_) => Err("telephone: there is no trunk; name one as [sip.trunk.NAME]".to_owned()),
                None => Ok(None),
            };
        }
        let gateway = self.telephone.as_deref().ok_or("telephone: trunks need an account that is the gateway")?;
        user(gateway).map_err(|reason| format!("telephone: {reason}"))?;
        if self.trunk.len() > TRUNKS_MAX {
            return Err(format!("trunk: at most {TRUNKS_MAX}"));
        }
        let dial_plan = self.dialling.plan()?;
        let mut ordered: Vec<(&String, &TrunkConfig)> = self.trunk.iter().collect();
        ordered.sort_by_key(|(name, trunk)| (trunk.priority, *name));
        let rule = |(name, trunk): &(&String, &TrunkConfig)| trunk.rule(name).map_err(|reason| format!("trunk.{name}.{reason}"));
        let trunks = ordered.iter().map(rule).collect::<Result<Vec<_>, _>>()?;
        let plan = Plan { dial_plan, trunks };
        for (name, trunk) in &ordered {
            trunk.numbers(&plan).map_err(|reason| format!("trunk.{name}.{reason}"))?;
        }
        Ok(Some((plan, ordered.into_iter().map(|(name, _)| name.as_str()).collect())))
    }
}

impl DiallingConfig {
    fn plan(&self) -> Result<DialPlan, String> {
        let digits = |what: &str, text: &str, max: usize| match text.bytes().all(|b| b.is_ascii_digit()) && text.len() <= max {
            true => Ok(()),
            false => Err(format!("dialling.{what}: {text:?} isn't at most {max} digits")),
        };
        let not_empty =
            |what: &str, text: &str| if text.is_empty() { Err(format!("dialling.{what}: it is empty")) } else { Ok(()) };
        for (what, text) in [("country", &self.country), ("area", &self.area)] {
            if let Some(text) = text {
                digits(what, text, 6)?;
                not_empty(what, text)?;
            }
        }
        digits("international_prefix", &self.international_prefix, 6)?;
        not_empty("international_prefix", &self.international_prefix)?;
        digits("national_prefix", &self.national_prefix, 6)?;
        for number in &self.emergency_numbers {
            digits("emergency_numbers", number, 6)?;
            not_empty("emergency_numbers", number)?;
        }
        Ok(DialPlan {
            country: self.country.clone(),
            international_prefix: self.international_prefix.clone(),
            national_prefix: self.national_prefix.clone(),
            area: self.area.clone(),
            emergency: self.emergency_numbers.clone(),
        })
    }
}

impl TrunkConfig {
    fn rule(&self, name: &str) -> Result<TrunkRule, String> {
        let is_name =
            !name.is_empty() && name.len() <= 32 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        if !is_name {
            return Err("a trunk's name has 1 to 32 letters, digits, - and _".to_owned());
        }
        self.check()?;
        let patterns = self.patterns.iter().map(|text| Pattern::parse(text));
        let patterns = patterns.collect::<Result<Vec<_>, _>>().map_err(|error| format!("patterns: {error}"))?;
        let callers = self.callers.iter().map(|text| user(text));
        let callers = callers.collect::<Result<Vec<_>, _>>().map_err(|reason| format!("callers: {reason}"))?;
        let shown = |text: &String| caller_id(text).map_err(|reason| format!("caller_id: {reason}"));
        let caller_ids = self.caller_ids.iter().map(|(named, text)| Ok((user(named)?, shown(text)?)));
        Ok(TrunkRule {
            name: name.to_owned(),
            patterns,
            callers,
            emergency: self.emergency,
            caller_id: self.caller_id.as_ref().map_or(Ok(CallerId::Account), shown)?,
            caller_ids: caller_ids.collect::<Result<_, String>>()?,
            limits: self.limits()?,
        })
    }

    fn check(&self) -> Result<(), String> {
        let is_bare = |text: &str| {
            !text.is_empty() && text.len() <= 255 && text.bytes().all(|b| b.is_ascii_graphic() && !b"<>\"@;".contains(&b))
        };
        for (what, text) in [("server", Some(&self.server)), ("domain", self.domain.as_ref()), ("username", Some(&self.username))]
        {
            if text.is_some_and(|text| !is_bare(text)) {
                return Err(format!("{what}: it is empty, too long, or has characters that it can't have"));
            }
        }
        if self.register && self.password_file.is_none() {
            return Err(
                "password_file: to register needs a password; register = false where the provider knows this machine's address"
                    .to_owned(),
            );
        }
        if self.listen.is_some() && self.transport != TrunkTransport::Udp {
            return Err("listen: with tcp and tls calls come on the connection to the server".to_owned());
        }
        let counts = [
            ("callers", self.callers.len()),
            ("caller_ids", self.caller_ids.len()),
            ("patterns", self.patterns.len()),
            ("inbound", self.inbound.len()),
            ("addresses", self.addresses.len()),
        ];
        if let Some((what, _)) = counts.iter().find(|(_, count)| *count > NAMED_MAX) {
            return Err(format!("{what}: at most {NAMED_MAX}"));
        }
        Ok(())
    }

    fn limits(&self) -> Result<Limits, String> {
        if self.prefixes.len() > PREFIXES_MAX {
            return Err(format!("prefixes: at most {PREFIXES_MAX}"));
        }
        let limit = |default: Limit, calls: Option<u32>, minutes: Option<u32>| Limit {
            calls: calls.unwrap_or(default.calls),
            minutes: minutes.unwrap_or(default.minutes),
        };
        let unlimited = Limit { calls: u32::MAX, minutes: u32::MAX };
        let prefix = |of: &PrefixConfig| match Pattern::parse(&of.prefix) {
            Ok(_) if !of.prefix.contains(['?', '*', '#']) => {
                Ok(PrefixLimit { prefix: of.prefix.clone(), limit: limit(unlimited, of.calls_per_day, of.minutes_per_day) })
            }
            _ => Err(format!("prefixes: {:?} isn't how a number begins", of.prefix)),
        };
        Ok(Limits {
            all: limit(Limit::OF_ALL, self.calls_per_day, self.minutes_per_day),
            user: limit(Limit::OF_USER, self.user_calls_per_day, self.user_minutes_per_day),
            prefixes: self.prefixes.iter().map(prefix).collect::<Result<_, _>>()?,
        })
    }

    /// Whom calls to a number ring at, by the numbers as the plan writes them. What is no number is the account's own name at the provider.
    ///
    /// # Errors
    /// A user who is none.
    pub(crate) fn numbers(&self, plan: &Plan) -> Result<BTreeMap<String, String>, String> {
        let mapped = self.inbound.iter().map(|(number, named)| {
            let key = Dialled::parse(number).and_then(|dialled| plan.number(&dialled));
            let key = key.map_or_else(|_| number.clone(), |number| number.to_string());
            Ok((key, user(named).map_err(|reason| format!("inbound: {reason}"))?))
        });
        mapped.collect()
    }
}

/// A complete username, as the overlay writes it.
fn user(text: &str) -> Result<String, String> {
    use halloo_protocol::identity::Username;
    let (name, authority) = text.split_once('@').ok_or_else(|| format!("{text:?} isn't NAME@AUTHORITY"))?;
    let part = |part: &str| Username::new(part).map_err(|error| format!("{text:?}: {error}"));
    Ok(format!("{}@{}", part(name)?.as_str(), part(authority)?.as_str()))
}

fn caller_id(text: &str) -> Result<CallerId, String> {
    if text == "anonymous" {
        return Ok(CallerId::Anonymous);
    }
    Dialled::parse(text).map(|number| CallerId::Number(number.to_string())).map_err(|error| format!("{text:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRUNK: &str =
        "telephone = \"phone@example\"\n[trunk.home]\nserver = \"sip.example.org\"\nusername = \"u\"\nregister = false\n";

    fn plan(text: &str) -> Result<Plan, String> {
        let config: SipConfig = toml::from_str(text).map_err(|error| error.to_string())?;
        config.plan().map(|plan| plan.map(|(plan, _)| plan).unwrap_or_default())
    }

    #[test]
    fn what_is_left_out_is_safe() {
        let plan = plan(TRUNK).expect("a plan");
        let trunk = &plan.trunks[0];
        assert_eq!(trunk.limits, Limits::default(), "there is a limit");
        assert!(trunk.callers.is_empty() && !trunk.emergency, "nobody may, and nothing of emergency");
        assert!(plan.route("phone@example", &Dialled::parse("+4930123456").expect("one")).is_err());
    }

    #[test]
    fn trunks_are_ordered_and_numbers_are_compared_as_they_are_dialled() {
        let text = format!(
            "{TRUNK}inbound = {{ \"030 123456\" = \"Alice@example\", \"u\" = \"bob@example\" }}\ncallers = [\"alice@example\"]\n\
             [trunk.first]\nserver = \"192.0.2.1:5070\"\nusername = \"v\"\nregister = false\npriority = 1\n[dialling]\ncountry = \"49\"\n"
        );
        let config: SipConfig = toml::from_str(&text).expect("TOML");
        let (plan, names) = config.plan().expect("good").expect("trunks");
        assert_eq!(names, ["first", "home"]);
        let numbers = config.trunk["home"].numbers(&plan).expect("good");
        assert_eq!(numbers["+4930123456"], "alice@example");
        assert_eq!(numbers["u"], "bob@example");
    }

    #[test]
    fn what_cant_be_used_is_named() {
        let cases = [
            ("telephone = \"phone@example\"", "telephone: there is no trunk"),
            (&TRUNK.replace("telephone = \"phone@example\"\n", ""), "telephone: trunks need"),
            (&TRUNK.replace("register = false", "register = true"), "trunk.home.password_file:"),
            (&TRUNK.replace("sip.example.org", "a>b"), "trunk.home.server:"),
            (&format!("{TRUNK}callers = [\"alice\"]"), "trunk.home.callers: \"alice\" isn't NAME@AUTHORITY"),
            (&format!("{TRUNK}patterns = [\"4*9\"]"), "trunk.home.patterns:"),
            (&format!("{TRUNK}caller_id = \"me\""), "trunk.home.caller_id: \"me\":"),
            (&format!("{TRUNK}inbound = {{ \"1\" = \"x\" }}"), "trunk.home.inbound:"),
            (&format!("{TRUNK}prefixes = [{{ prefix = \"+49*\" }}]"), "trunk.home.prefixes:"),
            (&format!("{TRUNK}transport = \"tls\"\nlisten = \"0.0.0.0:5080\""), "trunk.home.listen:"),
            (&format!("{TRUNK}[dialling]\ncountry = \"+49\""), "dialling.country:"),
            (&format!("{TRUNK}colour = 1"), "unknown field"),
        ];
        for (text, expected) in cases {
            let error = plan(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
