//! Keys and policies: Tigris's IAM API, which is the query protocol of AWS IAM (version 2010-05-08) at one address.
//!
//! Differences that its documentation names: there are no users. `UserName` is a key's own name where keys are made and
//! listed, and the id of the key (`tid_…`) where policies are attached. Policies are limited to S3 actions.

use aws_sigv4::http_request::SignableBody;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Url};
use roxmltree::{Document, Node};
use secrecy::SecretString;
use serde_json::{Value, json};

use super::error::ProvisionError;
use super::http::{Answer, Service, Twice};
use super::settings::Settings;
use crate::exit::Exit;
use crate::storage::sign::Signer;
use crate::storage::xml;

const VERSION: &str = "2010-05-08";
/// Entries of one page.
const PAGE: &str = "1000";
/// A list with more pages has no end.
const MOST_PAGES: usize = 1000;

/// What a tenant's key may do: what rclone and tenant-init ask of a bucket, and nothing about the bucket itself.
const ACTIONS: [&str; 7] = [
    "s3:ListBucket",
    "s3:GetObject",
    "s3:PutObject",
    "s3:DeleteObject",
    "s3:AbortMultipartUpload",
    "s3:ListBucketMultipartUploads",
    "s3:ListMultipartUploadParts",
];

/// The service, asked with the administrator's key.
pub(super) struct Iam {
    service: Service,
    signer: Signer,
}

/// An access key, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) id: String,
    /// The name that it was made with.
    pub(super) name: String,
    /// When it was made, in the service's words.
    pub(super) created: String,
}

/// A policy, without what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) name: String,
    pub(super) arn: String,
    /// How many keys have it; `None` when the service does not say.
    pub(super) attachments: Option<usize>,
    /// Which version is in force; `None` when the service does not say.
    version: Option<String>,
}

/// Something that has a policy: all that may be its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entity(pub(super) Vec<String>);

impl Iam {
    pub(super) fn new(settings: &Settings) -> Result<Iam, ProvisionError> {
        Ok(Iam {
            service: Service::new(
                "Tigris IAM",
                &settings.iam,
                "check TIGRIS_ADMIN_ACCESS_KEY_ID and TIGRIS_ADMIN_SECRET_ACCESS_KEY: the key must be an administrator's",
                [settings.key_id.clone(), settings.secret.clone()],
            )?,
            signer: Signer {
                service: "iam",
                region: settings.region.clone(),
                key_id: settings.key_id.clone(),
                secret: settings.secret.clone(),
            },
        })
    }

    /// All keys that the administrator may see.
    pub(super) async fn keys(&self) -> Result<Vec<Key>, ProvisionError> {
        let what = "listing the access keys";
        self.pages(what, "ListAccessKeys", &[], &|root| {
            members(root, "AccessKeyMetadata")
                .map(|member| {
                    Some(Key {
                        id: xml::text(member, "AccessKeyId")?,
                        name: xml::text(member, "UserName").unwrap_or_default(),
                        created: xml::text(member, "CreateDate").unwrap_or_default(),
                    })
                })
                .collect()
        })
        .await
    }

    /// All policies of the organization.
    pub(super) async fn policies(&self) -> Result<Vec<Policy>, ProvisionError> {
        let what = "listing the policies";
        self.pages(what, "ListPolicies", &[("Scope", "Local")], &|root| {
            members(root, "Policies")
                .map(|member| {
                    Some(Policy {
                        name: xml::text(member, "PolicyName")?,
                        arn: xml::text(member, "Arn")?,
                        attachments: xml::text(member, "AttachmentCount").and_then(|count| count.parse().ok()),
                        version: xml::text(member, "DefaultVersionId").filter(|version| !version.is_empty()),
                    })
                })
                .collect()
        })
        .await
    }

    /// What `policy` is attached to.
    pub(super) async fn attached(&self, policy: &Policy) -> Result<Vec<Entity>, ProvisionError> {
        let what = format!("listing the keys of the policy {}", policy.name);
        // The documentation does not say which of the two fields is the key's id; an id has no other place in a name.
        self.pages(&what, "ListEntitiesForPolicy", &[("PolicyArn", &policy.arn)], &|root| {
            members(root, "PolicyUsers")
                .map(|member| {
                    let texts = [xml::text(member, "UserId"), xml::text(member, "UserName")];
                    let ids: Vec<String> = texts.into_iter().flatten().filter(|text| !text.is_empty()).collect();
                    (!ids.is_empty()).then_some(Entity(ids))
                })
                .collect()
        })
        .await
    }

    /// What `policy` allows.
    pub(super) async fn document(&self, policy: &Policy) -> Result<Value, ProvisionError> {
        let what = format!("reading the policy {}", policy.name);
        // Another version than the one in force may allow something else.
        let version = policy.version.as_deref();
        let version = version.ok_or_else(|| self.service.strange(&what, "a DefaultVersionId"))?;
        let asked = [("PolicyArn", policy.arn.as_str()), ("VersionId", version)];
        let answer = self.done(&what, "GetPolicyVersion", Twice::Harmless, &asked).await?;
        let text = find(&answer, "Document").ok_or_else(|| self.service.strange(&what, "a Document"))?;
        // AWS encodes it (RFC 3986). What begins with a brace is not encoded.
        let text = if text.trim_start().starts_with('{') {
            text
        } else {
            percent_decode_str(&text).decode_utf8_lossy().into_owned()
        };
        serde_json::from_str(&text).map_err(|_| self.service.strange(&what, "a Document of JSON"))
    }

    /// Makes a key that may do nothing yet: its id and its secret, which is never told again.
    pub(super) async fn create_key(&self, name: &str) -> Result<(String, SecretString), ProvisionError> {
        let what = format!("making an access key {name}");
        let answer = self
            .done(&what, "CreateAccessKey", Twice::Never, &[("UserName", name)])
            .await?;
        let id = find(&answer, "AccessKeyId").filter(|id| !id.is_empty());
        let secret = find(&answer, "SecretAccessKey").filter(|secret| !secret.is_empty());
        match (id, secret) {
            (Some(id), Some(secret)) => Ok((id, secret.into())),
            _ => Err(self.service.strange(&what, "a key and its secret")),
        }
    }

    /// Makes the policy that opens `bucket` only.
    pub(super) async fn create_policy(&self, name: &str, bucket: &str) -> Result<Policy, ProvisionError> {
        let document = opens_only(bucket).to_string();
        let parameters = [("PolicyName", name), ("PolicyDocument", document.as_str())];
        let what = format!("making the policy {name}");
        let answer = self.send(&what, "CreatePolicy", Twice::Harmless, &parameters).await?;
        if xml::error(&answer.body).is_some_and(|said| said.code == "EntityAlreadyExists") {
            // It was not there a moment ago: an earlier attempt was served, and its answer was lost.
            let policies = self.policies().await?;
            let made = policies.into_iter().find(|policy| policy.name == name);
            let made = made.ok_or_else(|| self.service.strange(&what, "the policy that it says is there"))?;
            // Or somebody else has made it, and it would open more to the tenant's key.
            if !is_limited_to(&self.document(&made).await?, bucket) {
                let why = "a policy of this name has come meanwhile, and it does not open the tenant's bucket alone";
                let todo =
                    "look at it in the console; delete it there if it is not needed, then give the command again";
                return Err(ProvisionError::new(Exit::Refused, what, why, todo));
            }
            return Ok(made);
        }
        if !answer.is_good() {
            return Err(self.refused(&what, &answer));
        }
        Ok(Policy {
            name: name.to_owned(),
            arn: find(&answer, "Arn").ok_or_else(|| self.service.strange(&what, "an Arn"))?,
            attachments: Some(0),
            version: find(&answer, "DefaultVersionId").filter(|version| !version.is_empty()),
        })
    }

    pub(super) async fn attach(&self, key: &str, policy: &Policy) -> Result<(), ProvisionError> {
        let what = format!("attaching the policy {} to the key {key}", policy.name);
        let parameters = [("UserName", key), ("PolicyArn", &policy.arn)];
        self.done(&what, "AttachUserPolicy", Twice::Harmless, &parameters)
            .await
            .map(drop)
    }

    /// One that is not attached is fine.
    pub(super) async fn detach(&self, key: &str, policy: &Policy) -> Result<(), ProvisionError> {
        let what = format!("detaching the policy {} from the key {key}", policy.name);
        let parameters = [("UserName", key), ("PolicyArn", &policy.arn)];
        self.unless(&what, "DetachUserPolicy", &parameters, "NoSuchEntity")
            .await
    }

    /// A key that is not there is fine.
    pub(super) async fn delete_key(&self, id: &str) -> Result<(), ProvisionError> {
        let what = format!("deleting the access key {id}");
        self.unless(&what, "DeleteAccessKey", &[("AccessKeyId", id)], "NoSuchEntity")
            .await
    }

    /// It must not be attached to a key. One that is not there is fine.
    pub(super) async fn delete_policy(&self, policy: &Policy) -> Result<(), ProvisionError> {
        let what = format!("deleting the policy {}", policy.name);
        self.unless(&what, "DeletePolicy", &[("PolicyArn", &policy.arn)], "NoSuchEntity")
            .await
    }

    async fn pages<T>(
        &self,
        what: &str,
        action: &str,
        parameters: &[(&str, &str)],
        read: &(dyn Fn(Node<'_, '_>) -> Option<Vec<T>> + Sync),
    ) -> Result<Vec<T>, ProvisionError> {
        let mut all = Vec::new();
        let mut marker: Option<String> = None;
        for _ in 0..MOST_PAGES {
            let mut asked = parameters.to_vec();
            asked.push(("MaxItems", PAGE));
            if let Some(marker) = &marker {
                asked.push(("Marker", marker));
            }
            let answer = self.done(what, action, Twice::Harmless, &asked).await?;
            let (page, next) = page(&answer, action, marker.as_deref(), read)
                .map_err(|missing| self.service.strange(what, missing))?;
            all.extend(page);
            if next.is_none() {
                return Ok(all);
            }
            marker = next;
        }
        Err(self.service.strange(what, "an end of its list"))
    }

    async fn unless(
        &self,
        what: &str,
        action: &str,
        parameters: &[(&str, &str)],
        fine: &str,
    ) -> Result<(), ProvisionError> {
        let answer = self.send(what, action, Twice::Harmless, parameters).await?;
        let said = xml::error(&answer.body);
        if answer.is_good() || said.as_ref().is_some_and(|said| said.code == fine) {
            return Ok(());
        }
        Err(self.refused(what, &answer))
    }

    async fn done(
        &self,
        what: &str,
        action: &str,
        twice: Twice,
        parameters: &[(&str, &str)],
    ) -> Result<Answer, ProvisionError> {
        let answer = self.send(what, action, twice, parameters).await?;
        if answer.is_good() {
            Ok(answer)
        } else {
            Err(self.refused(what, &answer))
        }
    }

    fn refused(&self, what: &str, answer: &Answer) -> ProvisionError {
        let said = xml::error(&answer.body).map(|said| {
            let message = said.message.unwrap_or_default();
            format!("{} {message}", said.code).trim_end().to_owned()
        });
        self.service.refused(what, answer, said.as_deref())
    }

    async fn send(
        &self,
        what: &str,
        action: &str,
        twice: Twice,
        parameters: &[(&str, &str)],
    ) -> Result<Answer, ProvisionError> {
        let form = form(action, parameters);
        self.service
            .send(what, twice, || {
                let url = Url::parse(&self.service.url("/")).map_err(|error| error.to_string())?;
                let mut request = reqwest::Request::new(Method::POST, url);
                let kind = HeaderValue::from_static("application/x-www-form-urlencoded; charset=utf-8");
                request.headers_mut().insert(CONTENT_TYPE, kind);
                self.signer.sign(&mut request, SignableBody::Bytes(form.as_bytes()))?;
                *request.body_mut() = Some(form.clone().into());
                Ok(request)
            })
            .await
    }
}

fn form(action: &str, parameters: &[(&str, &str)]) -> String {
    let mut form = format!("Action={action}&Version={VERSION}");
    for (name, value) in parameters {
        form.push('&');
        form.push_str(name);
        form.push('=');
        form.extend(utf8_percent_encode(value, NON_ALPHANUMERIC));
    }
    form
}

/// The policy that opens `bucket` only.
fn opens_only(bucket: &str) -> Value {
    json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Sid": "OneTenant",
            "Effect": "Allow",
            "Action": ACTIONS,
            "Resource": [format!("arn:aws:s3:::{bucket}"), format!("arn:aws:s3:::{bucket}/*")],
        }],
    })
}

/// Does this policy allow in `bucket` what ours allows, and nothing else? Strict: what is not known here may widen it.
pub(super) fn is_limited_to(document: &Value, bucket: &str) -> bool {
    let several = |value: &Value| match value {
        Value::Array(values) => values.clone(),
        Value::Null => vec![],
        one => vec![one.clone()],
    };
    let all = [format!("arn:aws:s3:::{bucket}"), format!("arn:aws:s3:::{bucket}/*")];
    let statements = several(&document["Statement"]);
    let resources: Vec<Value> = statements
        .iter()
        .flat_map(|statement| several(&statement["Resource"]))
        .collect();
    let fields = |value: &Value, known: &[&str]| {
        let object = value.as_object();
        object.is_some_and(|object| object.keys().all(|field| known.contains(&field.as_str())))
    };
    let is_ours = |statement: &Value| {
        let actions = several(&statement["Action"]);
        fields(statement, &["Sid", "Effect", "Action", "Resource"])
            && statement["Effect"] == "Allow"
            && ACTIONS.iter().all(|action| actions.iter().any(|found| found == action))
            && actions.iter().all(|found| ACTIONS.iter().any(|action| found == action))
    };
    fields(document, &["Version", "Id", "Statement"])
        && statements.iter().all(is_ours)
        && resources
            .iter()
            .all(|found| all.iter().any(|one| found == one.as_str()))
        && all
            .iter()
            .all(|one| resources.iter().any(|found| found == one.as_str()))
}

fn members<'a>(root: Node<'a, 'a>, list: &str) -> impl Iterator<Item = Node<'a, 'a>> {
    root.descendants()
        .find(|node| node.has_tag_name(list))
        .into_iter()
        .flat_map(|list| list.children().filter(|node| node.has_tag_name("member")))
}

/// A page of `action`'s answer that begins at `marker`, and where the next one begins.
///
/// # Errors
/// What is missing in it. A list that is not whole must not be taken for one: what is not in it may be deleted.
fn page<T>(
    answer: &Answer,
    action: &str,
    marker: Option<&str>,
    read: &dyn Fn(Node<'_, '_>) -> Option<Vec<T>>,
) -> Result<(Vec<T>, Option<String>), &'static str> {
    const NO_LIST: &str = "a list";
    let text = std::str::from_utf8(&answer.body).map_err(|_| NO_LIST)?;
    let document = Document::parse(text).map_err(|_| NO_LIST)?;
    let result = format!("{action}Result");
    let result = document.descendants().find(|node| node.has_tag_name(result.as_str()));
    let result = result.ok_or(NO_LIST)?;
    let all = read(result).ok_or("all fields of its list")?;
    if xml::text(result, "IsTruncated").is_none_or(|text| text != "true") {
        return Ok((all, None));
    }
    match xml::text(result, "Marker") {
        Some(next) if !next.is_empty() && Some(next.as_str()) != marker => Ok((all, Some(next))),
        _ => Err("a Marker for the rest of its list"),
    }
}

fn find(answer: &Answer, name: &str) -> Option<String> {
    let document = Document::parse(std::str::from_utf8(&answer.body).ok()?).ok()?;
    let found = document.descendants().find(|node| node.has_tag_name(name))?;
    Some(found.text().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of AWS's API reference, with the ids of Tigris.
    const KEYS: &str = r#"<ListAccessKeysResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/"><ListAccessKeysResult>
        <UserName>Bob</UserName><AccessKeyMetadata>
        <member><UserName>tenant-acme</UserName><AccessKeyId>tid_one</AccessKeyId><Status>Active</Status>
          <CreateDate>2026-01-02T03:04:05Z</CreateDate></member>
        <member><AccessKeyId>tid_two</AccessKeyId><Status>Inactive</Status></member>
        </AccessKeyMetadata><IsTruncated>true</IsTruncated><Marker>more</Marker></ListAccessKeysResult>
        <ResponseMetadata><RequestId>7a62c49f</RequestId></ResponseMetadata></ListAccessKeysResponse>"#;

    #[test]
    fn a_page_has_members_and_a_place_to_go_on() {
        let ids = |root: Node<'_, '_>| {
            members(root, "AccessKeyMetadata")
                .map(|member| xml::text(member, "AccessKeyId"))
                .collect()
        };
        let ask = |text: &str, marker| page::<String>(&Answer::of(text), "ListAccessKeys", marker, &ids);
        let (found, next) = ask(KEYS, None).unwrap();
        assert_eq!(found, ["tid_one", "tid_two"]);
        assert_eq!(next.as_deref(), Some("more"));
        let last = KEYS.replace("<IsTruncated>true", "<IsTruncated>false");
        assert_eq!(ask(&last, None).unwrap().1, None);
        for other in ["", "{}", "<html/>", "<ListPoliciesResponse/>"] {
            assert_eq!(ask(other, None), Err("a list"), "{other}");
        }
        // A list that is not whole would make keys look unused.
        let rest = Err("a Marker for the rest of its list");
        assert_eq!(ask(KEYS, Some("more")), rest);
        for marker in ["", "<Marker></Marker>"] {
            assert_eq!(
                ask(&KEYS.replace("<Marker>more</Marker>", marker), None),
                rest,
                "{marker}"
            );
        }
        let nameless = KEYS.replace("<AccessKeyId>tid_two</AccessKeyId>", "");
        assert_eq!(ask(&nameless, None), Err("all fields of its list"));
    }

    #[test]
    fn a_form_is_encoded_and_says_its_version() {
        assert_eq!(
            form("CreatePolicy", &[("PolicyDocument", r#"{"a": "b/*"}"#)]),
            "Action=CreatePolicy&Version=2010-05-08&PolicyDocument=%7B%22a%22%3A%20%22b%2F%2A%22%7D"
        );
    }

    #[test]
    fn our_policy_is_limited_to_its_bucket_and_others_are_not() {
        let ours = opens_only("tenant-acme");
        assert!(is_limited_to(&ours, "tenant-acme"));
        assert!(!is_limited_to(&ours, "tenant-acm"));
        for resource in [
            json!("*"),
            json!(["arn:aws:s3:::tenant-acme*"]),
            json!("arn:aws:s3:::tenant-acme"),
            json!([]),
        ] {
            let mut other = ours.clone();
            other["Statement"][0]["Resource"] = resource.clone();
            assert!(!is_limited_to(&other, "tenant-acme"), "{resource}");
        }
        let mut more = ours.clone();
        let wide = json!({"Effect": "Allow", "Action": "s3:*", "Resource": "*"});
        more["Statement"].as_array_mut().unwrap().push(wide);
        assert!(!is_limited_to(&more, "tenant-acme"));
        let mut all_but = ours.clone();
        all_but["Statement"][0]["NotResource"] = json!("arn:aws:s3:::x");
        assert!(!is_limited_to(&all_but, "tenant-acme"));
        assert!(!is_limited_to(&json!({}), "tenant-acme"));
        for (field, value) in [
            ("Action", json!("s3:*")),
            ("Action", json!([ACTIONS.as_slice(), &["s3:DeleteBucket"]].concat())),
            ("Action", json!(ACTIONS[1..])),
            ("NotAction", json!("s3:GetObject")),
            ("Condition", json!({"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}})),
            ("Principal", json!("*")),
        ] {
            let mut other = ours.clone();
            other["Statement"][0][field] = value.clone();
            assert!(!is_limited_to(&other, "tenant-acme"), "{field} {value}");
        }
        let mut turned = ours.clone();
        turned["Statement"][0]["Action"] = ACTIONS.iter().rev().copied().collect();
        assert!(is_limited_to(&turned, "tenant-acme"), "the order says nothing");
    }
}
