//! S3 and compatible servers. Requests are signed in the URL, so a signature is good for one object and some minutes.

use super::{Adapter, FileLocation, Item, Listing, MAX_DOCUMENT_BYTES, refusal, too_many};
use crate::address::Address;
use crate::error::Error;
use crate::http::Get;
use rusty_s3::actions::ListObjectsV2;
use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};
use std::time::Duration;
use url::Url;

/// The lifetime of a signed URL. It is used at once, but clocks differ.
const SIGNED_FOR: Duration = Duration::from_secs(900);
/// Pages of a list, of a thousand objects each.
const MAX_PAGES: usize = 100;

impl Adapter<'_> {
    fn bucket(&self) -> Result<(Bucket, Option<Credentials>), Error> {
        let Address::S3 { bucket, .. } = &self.source.from else {
            return Err(Error::local("the source is not an S3 address"));
        };
        let variable = |names: &[&str]| {
            names
                .iter()
                .find_map(|name| (self.environment)(name).filter(|text| !text.is_empty()))
        };
        let region = self.source.region.clone();
        let region = region.or_else(|| variable(&["AWS_REGION", "AWS_DEFAULT_REGION"]));
        let region = region.unwrap_or_else(|| "us-east-1".to_owned());
        let endpoint = self.source.endpoint.clone();
        let endpoint = endpoint.or_else(|| variable(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]));
        // No wildcard certificate covers names with dots, and other servers have no host names for buckets.
        let style = match endpoint.is_some() || bucket.contains('.') {
            true => UrlStyle::Path,
            false => UrlStyle::VirtualHost,
        };
        let endpoint = endpoint.unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
        let url = Url::parse(&endpoint)
            .map_err(|e| Error::local(format!("the S3 endpoint {endpoint} is not a URL: {e}")))?;
        let bucket = Bucket::new(url, style, bucket.clone(), region)
            .map_err(|e| Error::local(format!("the bucket cannot be addressed: {e}")))?;
        let credentials = match &self.secret {
            Some(secret) => {
                let mut parts = secret.expose().splitn(3, ':');
                match (parts.next(), parts.next(), parts.next()) {
                    (Some(id), Some(key), None) => Some(Credentials::new(id, key)),
                    (Some(id), Some(key), Some(token)) => {
                        Some(Credentials::new_with_token(id, key, token))
                    }
                    _ => {
                        let message = "S3 credentials must be ACCESS_KEY_ID:SECRET_ACCESS_KEY, followed by \
                                       :SESSION_TOKEN if there is one";
                        return Err(Error::local(message));
                    }
                }
            }
            None => match (
                variable(&["AWS_ACCESS_KEY_ID"]),
                variable(&["AWS_SECRET_ACCESS_KEY"]),
            ) {
                (Some(id), Some(key)) => Some(match variable(&["AWS_SESSION_TOKEN"]) {
                    Some(token) => Credentials::new_with_token(id, key, token),
                    None => Credentials::new(id, key),
                }),
                _ => None,
            },
        };
        Ok((bucket, credentials))
    }

    pub(super) fn object_url(&self, key: &str) -> Result<Url, Error> {
        let (bucket, credentials) = self.bucket()?;
        Ok(bucket
            .get_object(credentials.as_ref(), key)
            .sign(SIGNED_FOR))
    }

    pub(super) async fn list_s3(&self) -> Result<Listing, Error> {
        let Address::S3 { key, .. } = &self.source.from else {
            return Err(Error::local("the source is not an S3 address"));
        };
        let (bucket, credentials) = self.bucket()?;
        let single = |bytes, validator| Item {
            path: key.rsplit('/').next().unwrap_or("model").to_owned(),
            place: FileLocation::Object(key.clone()),
            bytes,
            sha256: None,
            validator,
            immutable: false,
            archive: false,
        };
        let mut items = Vec::new();
        let mut next: Option<String> = None;
        let below = if key.is_empty() || key.ends_with('/') {
            key.clone()
        } else {
            format!("{key}/")
        };
        for _ in 0..MAX_PAGES {
            let mut action = bucket.list_objects_v2(credentials.as_ref());
            action.with_prefix(key.as_str());
            if let Some(token) = &next {
                action.with_continuation_token(token.as_str());
            }
            let url = action.sign(SIGNED_FOR);
            let answer = self.client.get(&Get::new(&url)).await?;
            // A caller may be allowed to read an object and not to list.
            if answer.status == http::StatusCode::FORBIDDEN
                && !key.is_empty()
                && !key.ends_with('/')
            {
                let items = vec![single(None, None)];
                return Ok(Listing {
                    items,
                    single: true,
                    ..Listing::default()
                });
            }
            if answer.status != http::StatusCode::OK {
                return Err(refusal(&self.source.from.to_string(), answer).await);
            }
            let text = answer.body(MAX_DOCUMENT_BYTES).await?;
            let page = ListObjectsV2::parse_response(&text).map_err(|e| {
                Error::refused(format!(
                    "the list of {} cannot be read: {e}",
                    self.source.from
                ))
            })?;
            for mut object in page.contents {
                object.key = decoded(&object.key);
                if object.key == *key && !key.is_empty() {
                    let items = vec![single(Some(object.size), Some(object.etag))];
                    return Ok(Listing {
                        items,
                        single: true,
                        ..Listing::default()
                    });
                }
                let Some(path) = object.key.strip_prefix(&below) else {
                    continue;
                };
                // Some tools mark folders by empty objects.
                if path.is_empty() || path.ends_with('/') {
                    continue;
                }
                if items.len() >= self.limits.files {
                    return Err(too_many(self.limits));
                }
                items.push(Item {
                    path: path.to_owned(),
                    place: FileLocation::Object(object.key.clone()),
                    bytes: Some(object.size),
                    sha256: None,
                    validator: Some(object.etag),
                    immutable: false,
                    archive: false,
                });
            }
            next = page.next_continuation_token;
            if next.is_none() {
                break;
            }
        }
        if next.is_some() {
            return Err(too_many(self.limits));
        }
        if items.is_empty() {
            return Err(Error::refused(format!(
                "{} is not an object, and no object lies below it",
                self.source.from
            )));
        }
        Ok(Listing {
            items,
            ..Listing::default()
        })
    }
}

/// A key as it is. Lists are asked for in URL encoding, because XML cannot hold every key, and are not decoded by the crate.
fn decoded(key: &str) -> String {
    let pair = format!("={key}");
    let mut pairs = url::form_urlencoded::parse(pair.as_bytes());
    pairs
        .next()
        .map(|(_, key)| key.into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::decoded;

    #[test]
    fn keys_of_a_list_are_decoded() {
        for (listed, key) in [
            ("a/b.onnx", "a/b.onnx"),
            ("a+b", "a b"),
            ("a%2Bb%26c%3Dd%25", "a+b&c=d%"),
            ("%C3%A9=1", "é=1"),
            ("", ""),
        ] {
            assert_eq!(decoded(listed), key);
        }
    }
}
