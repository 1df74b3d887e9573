//! JSON Web Tokens (RFC 7519) by which the gateway shows push services who it is.

use data_encoding::BASE64URL_NOPAD;
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};
use p256::pkcs8::DecodePrivateKey;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;

/// A key isn't one, or can't sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeyError {
    /// Not PEM of a PKCS#8 private key.
    #[error("the private key is not PKCS#8 in PEM (\"BEGIN PRIVATE KEY\")")]
    Pem,
    /// PKCS#8, but of another kind, or of a size that isn't safe.
    #[error("the private key is not {0}")]
    Kind(&'static str),
    /// The operating system gave no randomness.
    #[error("no randomness from the operating system")]
    Randomness,
}

/// Signs with RS256 (RFC 7518 section 3.3): RSA of 2,048 to 4,096 bits.
pub(super) struct RsaSigner(RsaKeyPair);

impl RsaSigner {
    /// # Errors
    /// [`KeyError`].
    pub(super) fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| KeyError::Pem)?;
        let key = RsaKeyPair::from_pkcs8(key.secret_pkcs8_der());
        key.map(Self).map_err(|_| KeyError::Kind("an RSA key of 2,048 to 4,096 bits"))
    }

    /// A signed token.
    ///
    /// # Errors
    /// [`KeyError::Randomness`].
    pub(super) fn sign(&self, header: &Value, claims: &Value) -> Result<String, KeyError> {
        self.sign_text(signing_input(header, claims))
    }

    fn sign_text(&self, signed: String) -> Result<String, KeyError> {
        let mut signature = vec![0; self.0.public().modulus_len()];
        self.0
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
            .map_err(|_| KeyError::Randomness)?;
        Ok(format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature)))
    }
}

/// Signs with ES256 (RFC 7518 section 3.4).
pub(super) struct EcSigner(SigningKey);

impl EcSigner {
    /// # Errors
    /// [`KeyError`].
    pub(super) fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| KeyError::Pem)?;
        let key = SigningKey::from_pkcs8_der(key.secret_pkcs8_der());
        key.map(Self).map_err(|_| KeyError::Kind("a P-256 key"))
    }

    /// A signed token.
    pub(super) fn sign(&self, header: &Value, claims: &Value) -> String {
        let signed = signing_input(header, claims);
        let signature: Signature = self.0.sign(signed.as_bytes());
        format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature.to_bytes()))
    }
}

/// RFC 7515 section 5.1.
fn signing_input(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    format!("{}.{}", part(header), part(claims))
}

#[cfg(test)]
mod tests {
    use p256::ecdsa::VerifyingKey;
    use p256::ecdsa::signature::Verifier;
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
    use serde_json::json;

    use super::*;

    /// RFC 7515 appendix A.2: its key as PKCS#8, its signing input, and the signature it must give.
    #[test]
    fn rs256_is_that_of_rfc_7515() {
        let signer = RsaSigner::from_pem(include_str!("jwt/rfc7515-a2.pem")).unwrap();
        let input =
            "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let signed = signer.sign_text(input.to_owned()).unwrap();
        let signature = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
        assert_eq!(signed, format!("{input}.{signature}"));
    }

    #[test]
    fn es256_verifies_with_the_public_key() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let token = EcSigner::from_pem(&key.serialize_pem()).unwrap().sign(&json!({"alg": "ES256"}), &json!({"iss": "a"}));
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let signature = BASE64URL_NOPAD.decode(signature.as_bytes()).unwrap();
        let public = VerifyingKey::from_sec1_bytes(key.der_bytes()).unwrap();
        public.verify(signed.as_bytes(), &Signature::from_slice(&signature).unwrap()).unwrap();
        assert!(public.verify(b"other", &Signature::from_slice(&signature).unwrap()).is_err());
    }

    #[test]
    fn keys_of_another_kind_are_refused() {
        let rsa = include_str!("jwt/rfc7515-a2.pem");
        let ec = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
        assert!(matches!(RsaSigner::from_pem(&ec).err(), Some(KeyError::Kind(_))));
        assert!(matches!(EcSigner::from_pem(rsa).err(), Some(KeyError::Kind(_))));
        assert_eq!(RsaSigner::from_pem("").err(), Some(KeyError::Pem));
        assert_eq!(EcSigner::from_pem("-----BEGIN PRIVATE KEY-----\n!\n-----END PRIVATE KEY-----").err(), Some(KeyError::Pem));
    }
}
