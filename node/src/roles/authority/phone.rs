//! Codes to telephones, by a provider's HTTP interface or a program of the operator's.
//!
//! Each message costs the operator money, and part of it may be a swindler's whose number it goes to. So they go where the configuration says and nowhere else, and few to numbers beside each other.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::ways::short_text;
use crate::config::PhoneConfig;
use crate::roles::gateway::sms::{SmsClient, Text, fill_argument};

/// How long a program may take; it is ended then.
const PROGRAM_MAX: Duration = Duration::from_secs(60);

/// Prefixes in the configuration, arguments of a program, and the longest of them.
const PREFIXES_MAX: usize = 512;
const ARGUMENTS_MAX: usize = 64;
const ARGUMENT_BYTES_MAX: usize = 1_024;

/// What sends codes to telephones.
#[derive(Debug)]
pub(crate) struct Phones {
    prefixes: Vec<String>,
    refused: Vec<String>,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Provider(Box<SmsClient>),
    Program(Vec<String>),
}

impl Phones {
    /// As the configuration says. Call it within a Tokio runtime.
    ///
    /// # Errors
    /// What can't be used, by its setting's name.
    pub(crate) fn new(config: &PhoneConfig, is_lab: bool) -> Result<Self, String> {
        let wrong = |setting: &str, reason: &str| Err(format!("authority.phone.{setting}: {reason}"));
        let is_prefix = |text: &String| {
            let digits = text.strip_prefix('+').unwrap_or_default();
            (1..=15).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0')
        };
        if config.prefixes.is_empty() {
            return wrong("prefixes", "name the countries that codes are sent to, as in [\"+49\"]: each message costs money");
        }
        for (setting, list) in [("prefixes", &config.prefixes), ("refused", &config.refused)] {
            if list.len() > PREFIXES_MAX || !list.iter().all(is_prefix) {
                return wrong(setting, "expected up to 512 texts, each + and up to 15 digits");
            }
        }
        let way = match (&config.sms, config.command.is_empty()) {
            (Some(sms), true) => {
                let roots = config.roots.as_deref().map(crate::builder::web_roots).transpose();
                let roots = roots.map_err(|error| format!("authority.phone.{error}"))?.unwrap_or_default();
                let client = SmsClient::for_codes(sms, is_lab, &roots);
                Way::Provider(Box::new(client.map_err(|error| format!("authority.phone.sms: {error}"))?))
            }
            (None, false) => Way::Program(program(&config.command).map_err(|error| format!("authority.phone.command: {error}"))?),
            _ => return wrong("sms", "expected either this or command"),
        };
        Ok(Self { prefixes: config.prefixes.clone(), refused: config.refused.clone(), way })
    }

    /// Whether a code may be sent to a number: the longest prefix of it that is named counts.
    pub(crate) fn is_allowed(&self, number: &str) -> bool {
        let longest = |list: &[String]| list.iter().filter(|prefix| number.starts_with(prefix.as_str())).map(String::len).max();
        longest(&self.prefixes).is_some_and(|allowed| longest(&self.refused).is_none_or(|refused| allowed > refused))
    }

    /// Sends a code.
    pub(crate) async fn send(&self, number: &str, code: &str, user: &str) -> Result<(), String> {
        let text = short_text(code, user);
        let text = Text { number, text: &text, code };
        match &self.way {
            Way::Provider(client) => client.send_text(&text).await,
            Way::Program(arguments) => run(arguments, &text).await,
        }
    }
}

fn program(arguments: &[String]) -> Result<Vec<String>, &'static str> {
    if arguments.len() > ARGUMENTS_MAX || arguments.iter().any(|argument| argument.len() > ARGUMENT_BYTES_MAX) {
        return Err("at most 64 arguments of 1,024 bytes");
    }
    let after = arguments.get(1..).unwrap_or_default();
    let has = |name: &str| after.iter().any(|argument| argument.contains(name));
    if !has("{number}") || !(has("{text}") || has("{code}")) {
        return Err("its arguments must hold {number}, and {text} or {code}");
    }
    Ok(arguments.to_vec())
}

/// Runs a program once. What it prints is thrown away: it may have the number in it.
async fn run(arguments: &[String], text: &Text<'_>) -> Result<(), String> {
    let (program, arguments) = arguments.split_first().ok_or("no program")?;
    let mut command = Command::new(program);
    command.args(arguments.iter().map(|argument| fill_argument(argument, text)));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| format!("{program}: {error}"))?;
    match timeout(PROGRAM_MAX, child.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(format!("{program}: {status}")),
        Ok(Err(error)) => Err(format!("{program}: {error}")),
        Err(_elapsed) => {
            let _gone = child.kill().await;
            Err(format!("{program} hasn't ended in time"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SmsConfig;

    fn config(command: &[&str]) -> PhoneConfig {
        PhoneConfig {
            prefixes: vec!["+49".into(), "+1".into(), "+49900123".into()],
            refused: vec!["+49900".into(), "+1876".into()],
            command: command.iter().map(|argument| (*argument).to_owned()).collect(),
            ..PhoneConfig::default()
        }
    }

    #[tokio::test]
    async fn codes_go_where_the_configuration_says() {
        let phones = Phones::new(&config(&["sh", "{number}", "{text}"]), false).unwrap();
        for (number, is_allowed) in [
            ("+4930123456", true),
            ("+43123456789", false),
            ("+15550100", true),
            ("+18765550100", false),
            ("+4990012", false),
            ("+499001234567", true),
        ] {
            assert_eq!(phones.is_allowed(number), is_allowed, "{number}");
        }
    }

    #[tokio::test]
    async fn settings_that_cannot_work_are_named() {
        let refused = |config: &PhoneConfig| Phones::new(config, false).map(|_| ()).unwrap_err();
        let good = config(&["send", "{number}", "{text}"]);
        assert!(refused(&PhoneConfig { prefixes: Vec::new(), ..good.clone() }).starts_with("authority.phone.prefixes: "));
        for prefix in ["", "+", "49", "+0", "+49x", "+1234567890123456"] {
            let prefixes = vec![prefix.to_owned()];
            assert!(refused(&PhoneConfig { prefixes: prefixes.clone(), ..good.clone() }).contains("phone.prefixes"), "{prefix}");
            assert!(refused(&PhoneConfig { refused: prefixes, ..good.clone() }).contains("phone.refused"), "{prefix}");
        }
        assert!(refused(&config(&[])).contains("either"));
        assert!(refused(&config(&["{number}", "{text}"])).contains("{number}"), "a program has a name of its own");
        assert!(refused(&config(&["send", "{number}"])).contains("{text}"));
        let sms = SmsConfig { url: "https://sms.example/?to={number}".into(), ..SmsConfig::default() };
        assert!(refused(&PhoneConfig { sms: Some(sms.clone()), ..good }).contains("either"));
        let both = PhoneConfig { sms: Some(sms), ..config(&[]) };
        assert!(refused(&both).starts_with("authority.phone.sms: "), "no text");
    }

    #[tokio::test]
    async fn a_program_is_run_without_a_shell_and_its_exit_code_counts() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out").display().to_string();
        let script = "printf '%s\\n' \"$@\" > \"$0\"";
        let phones = Phones::new(&config(&["sh", "-c", script, &out, "{number}", "{code}", "{text}"]), false).unwrap();
        phones.send("+4930123456", "01234567", "alice$(id)\n@example").await.unwrap();
        let told = std::fs::read_to_string(&out).unwrap();
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines[..2], ["+4930123456", "01234567"]);
        assert!(lines[2].starts_with("Halloo: the code is 01234567. alice$(id)@example wants") && lines.len() == 3, "{told}");

        let failing = Phones::new(&config(&["sh", "-c", "exit 3", "{number}", "{text}"]), false).unwrap();
        assert!(failing.send("+4930123456", "01234567", "alice").await.unwrap_err().contains('3'));
        let missing = Phones::new(&config(&["/no/such/program", "{number}", "{text}"]), false).unwrap();
        assert!(missing.send("+4930123456", "01234567", "alice").await.unwrap_err().contains("/no/such/program"));
    }

    #[tokio::test]
    async fn a_message_is_one_message() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out").display().to_string();
        let phones = Phones::new(&config(&["sh", "-c", "printf %s \"$2\" > \"$0\"", &out, "{number}", "{text}"]), false).unwrap();
        phones.send("+4930123456", "01234567", &"n".repeat(300)).await.unwrap();
        assert!(std::fs::read_to_string(&out).unwrap().len() <= 160);
    }
}
