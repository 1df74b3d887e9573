//! Makes an offer with video short enough for an invite, which has 2,800 bytes in all, so that pushes can carry it.
//!
//! What goes is what another place says as well: of a bundle's later sections how to connect and who we are (RFC 8843 section 7.1.3: the first one's
//! counts), and feedback that this engine doesn't give. Candidates that don't fit are told one by one once there is somebody to tell them to.

/// Longest offer with video, in bytes: what an invite leaves beside the chain of certificates, a display name of full length, addresses and relays.
pub(super) const OFFER_BYTES_MAX: usize = 1_500;

/// What only the first section of a bundle has to say.
const OF_THE_FIRST: [&str; 6] =
    ["a=ice-ufrag:", "a=ice-pwd:", "a=ice-options:", "a=fingerprint:", "a=setup:", "a=end-of-candidates"];
/// Feedback that nobody gives here: no estimate of bandwidth is made, and one way to ask for a key frame will do.
const UNUSED_FEEDBACK: [&str; 3] = [" transport-cc", " goog-remb", " ccm fir"];

/// The offer shortened, and the candidates that were left out, as attributes.
pub(in super::super) fn shorten(sdp: &str) -> (String, Vec<String>) {
    let mut sections = 0;
    let is_needed = |line: &&str| {
        sections += usize::from(line.starts_with("m="));
        let is_said_before = sections > 1 && OF_THE_FIRST.iter().any(|name| line.starts_with(name));
        let is_unused = line.starts_with("a=rtcp-fb:") && UNUSED_FEEDBACK.iter().any(|kind| line.ends_with(kind));
        // Which stream belongs to which track stands in the section already.
        let is_doubled = line.starts_with("a=ssrc:") && line.contains(" msid:");
        !(is_said_before || is_unused || is_doubled)
    };
    let mut lines: Vec<&str> = sdp.lines().filter(is_needed).collect();
    let mut left_out = Vec::new();
    let length = |lines: &[&str]| lines.iter().map(|line| line.len() + 2).sum::<usize>();
    while length(&lines) > OFFER_BYTES_MAX {
        // Those of relays come last; they work from either end.
        let Some(place) = lines.iter().rposition(|line| line.starts_with("a=candidate:")) else { break };
        left_out.push(lines.remove(place).trim_start_matches("a=").to_owned());
    }
    (lines.into_iter().flat_map(|line| [line, "\r\n"]).collect(), left_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_twice_goes_and_so_do_candidates_that_dont_fit() {
        let head = "v=0\r\na=group:BUNDLE 0 1\r\n";
        let who = "a=ice-ufrag:abcd\r\na=ice-pwd:secret\r\na=fingerprint:sha-256 AB:CD\r\na=setup:actpass\r\n";
        let candidates: String = (1..30).map(|port| format!("a=candidate:1 1 udp 1 192.0.2.1 {port} typ host\r\n")).collect();
        let audio = "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\na=rtcp-fb:111 transport-cc\r\na=ssrc:1 cname:x\r\na=ssrc:1 msid:s t\r\n";
        let video = "m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:1\r\na=rtcp-fb:96 nack pli\r\na=rtcp-fb:96 ccm fir\r\n";
        let long = format!("{head}{audio}{who}{candidates}{video}{who}");
        let (short, left_out) = shorten(&long);
        assert!(short.len() <= OFFER_BYTES_MAX && short.ends_with("\r\n"));
        assert_eq!(short.matches("a=fingerprint:").count(), 1);
        assert!(short.contains("a=rtcp-fb:96 nack pli") && !short.contains("ccm fir") && !short.contains("transport-cc"));
        assert!(short.contains("a=ssrc:1 cname:x") && !short.contains("msid:"));
        let kept = short.matches("a=candidate:").count();
        assert!(kept > 5 && kept + left_out.len() == 29);
        assert_eq!(left_out[0], "candidate:1 1 udp 1 192.0.2.1 29 typ host");
        let (again, none) = shorten(&short);
        assert_eq!((again, none), (short, vec![]));
    }
}
