#![no_main]

halloo_protocol_fuzz::target!(bytes => {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(name) = halloo_protocol::identity::Username::new(text)
    {
        let again = halloo_protocol::identity::Username::new(name.as_str());
        assert_eq!(again.as_ref(), Ok(&name), "a name's normal form is its own");
    }
});
