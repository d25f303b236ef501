//! AWS Signature Version 4 in headers, with the time of this machine.

use std::time::SystemTime;

use aws_sigv4::http_request::{self, SignableBody, SignableRequest, SigningSettings};
use aws_sigv4::sign::v4;
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};

use super::network;
use crate::credentials;

/// A key, and what it signs for.
#[derive(Clone)]
pub(crate) struct Signer {
    /// `s3`, `iam`.
    pub(crate) service: &'static str,
    pub(crate) region: String,
    pub(crate) key_id: SecretString,
    pub(crate) secret: SecretString,
}

impl Signer {
    pub(super) fn s3(storage: &credentials::Storage) -> Signer {
        Signer {
            service: "s3",
            region: storage.region.clone(),
            key_id: storage.access_key_id.clone(),
            secret: storage.secret_access_key.clone(),
        }
    }

    /// Adds the signature to `request`, whose other headers are complete.
    ///
    /// # Errors
    /// In words, when there is something that cannot be signed.
    pub(crate) fn sign(&self, request: &mut reqwest::Request, body: SignableBody<'_>) -> Result<(), String> {
        let mut settings = SigningSettings::default();
        // Keys are encoded once, and a key with two slashes in a row is another one (Amazon S3, "Signature calculations").
        // Other services are asked at the path `/` alone, where this makes no difference.
        settings.percent_encoding_mode = http_request::PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = http_request::UriPathNormalizationMode::Disabled;
        settings.payload_checksum_kind = http_request::PayloadChecksumKind::XAmzSha256;
        let (key_id, secret) = (self.key_id.expose_secret(), self.secret.expose_secret());
        let identity = aws_credential_types::Credentials::new(key_id, secret, None, None, "tenant-bundle").into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(self.service)
            .time(SystemTime::now())
            .settings(settings)
            .build()
            .map_err(|error| error.to_string())?;
        let signable = SignableRequest::new(
            request.method().as_str(),
            request.url().as_str(),
            request
                .headers()
                .iter()
                .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?))),
            body,
        );
        let signed = signable
            .and_then(|signable| http_request::sign(signable, &parameters.into()))
            .map_err(|error| network::chain(&error))?;
        for header in signed.into_parts().0.into_parts().0 {
            let mut value = HeaderValue::from_str(header.value()).map_err(|error| error.to_string())?;
            value.set_sensitive(header.sensitive());
            request.headers_mut().insert(header.name(), value);
        }
        Ok(())
    }
}
