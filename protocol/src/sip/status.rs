//! Where the overlay's ways to end a call and SIP's meet, each direction in one function.

/// Why a call of the overlay ended before it was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// Ended after an answer that wasn't this phone's.
    Completed,
    /// Somebody said no.
    Declined,
    /// In another call, or not to be disturbed.
    Busy,
    /// Rang, and nobody came.
    NoAnswer,
    /// No device is reached.
    Unreachable,
    /// The name isn't known.
    Unknown,
    /// Who called may not.
    Forbidden,
    /// The caller gave up.
    Cancelled,
    /// Answered on another of the callee's devices.
    Elsewhere,
    /// No codec in common.
    NoCodec,
    /// What there is to say of media failed, or anything else.
    Failed,
}

/// The status and its words for a phone that called (RFC 3261 section 21).
#[must_use]
pub const fn status_of(ending: Ending) -> (u16, &'static str) {
    match ending {
        // A success is told with a description, where the call is answered: who gets here was answered by nobody.
        Ending::Completed | Ending::Elsewhere => (480, "Call Completed Elsewhere"),
        Ending::Declined => (603, "Decline"),
        Ending::Busy => (486, "Busy Here"),
        Ending::NoAnswer => (480, "No Answer"),
        Ending::Unreachable => (480, "Temporarily Unavailable"),
        Ending::Unknown => (404, "Not Found"),
        Ending::Forbidden => (403, "Forbidden"),
        Ending::Cancelled => (487, "Request Terminated"),
        Ending::NoCodec => (488, "Not Acceptable Here"),
        Ending::Failed => (500, "Server Internal Error"),
    }
}

/// What a phone that was called means by a final status.
#[must_use]
pub const fn ending_of(status: u16) -> Ending {
    match status {
        200..=299 => Ending::Completed,
        404 | 410 | 484 | 485 | 604 => Ending::Unknown,
        401 | 403 | 407 => Ending::Forbidden,
        486 | 600 => Ending::Busy,
        408 => Ending::NoAnswer,
        480 | 430 | 502..=504 => Ending::Unreachable,
        487 => Ending::Cancelled,
        415 | 488 | 606 => Ending::NoCodec,
        603 | 607 | 608 | 433 => Ending::Declined,
        _ => Ending::Failed,
    }
}

/// Whether one phone's refusal is its person's, for all of the person's phones, so that the others stop ringing: no, busy everywhere.
#[must_use]
pub const fn is_for_all(status: u16) -> bool {
    status / 100 == 6 || status == 486
}

/// The words for a status, where nothing better is to be said.
#[must_use]
pub const fn reason_of(status: u16) -> &'static str {
    match status {
        100 => "Trying",
        180 => "Ringing",
        183 => "Session Progress",
        200 => "OK",
        202 => "Accepted",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        413 => "Request Entity Too Large",
        415 => "Unsupported Media Type",
        416 => "Unsupported URI Scheme",
        420 => "Bad Extension",
        422 => "Session Interval Too Small",
        423 => "Interval Too Brief",
        439 => "First Hop Lacks Outbound Support",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does Not Exist",
        482 => "Loop Detected",
        483 => "Too Many Hops",
        486 => "Busy Here",
        487 => "Request Terminated",
        488 => "Not Acceptable Here",
        489 => "Bad Event",
        491 => "Request Pending",
        500 => "Server Internal Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        504 => "Server Time-out",
        505 => "Version Not Supported",
        513 => "Message Too Large",
        603 => "Decline",
        _ => "Response",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_on_one_side_is_the_same_refusal_on_the_other() {
        for ending in [
            Ending::Declined,
            Ending::Busy,
            Ending::Unreachable,
            Ending::Unknown,
            Ending::Forbidden,
            Ending::Cancelled,
            Ending::NoCodec,
            Ending::Failed,
        ] {
            let (status, _) = status_of(ending);
            assert!((400..700).contains(&status));
            assert_eq!(ending_of(status), ending, "{status}");
        }
    }
}
