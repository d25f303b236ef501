//! Buckets as a whole, for whoever makes and removes them (`tenant-provision`). A tenant's key must not be able to do this.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};
use reqwest::Method;
use roxmltree::Document;
use tokio::task::JoinSet;

use super::client::{self, Request};
use super::{Bucket, StorageError, error, folders, xml};

/// Deletions at the same time.
const AT_ONCE: usize = 16;

/// Names in one request (the most that S3 takes).
const AT_A_TIME: usize = 1000;

/// What a bucket has in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holds {
    /// Nothing at all.
    Nothing,
    /// Only objects of tenant-init's own.
    OnlyOurs,
    /// A tenant's files.
    Files,
}

/// How making a bucket ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Made {
    /// It is there and belongs to this account; perhaps it was there before.
    Ours,
    /// Somebody else has a bucket of this name: names are unique among all customers.
    Taken,
}

impl Bucket {
    /// Makes the bucket.
    pub(crate) async fn create(&self) -> Result<Made, StorageError> {
        let answer = self.client.send(&self.target, Request::bucket(Method::PUT)).await?;
        let said = xml::error(&answer.body).map(|said| said.code).unwrap_or_default();
        match said.as_str() {
            "BucketAlreadyOwnedByYou" => Ok(Made::Ours),
            "BucketAlreadyExists" => Ok(Made::Taken),
            _ if answer.is_good() => Ok(Made::Ours),
            _ => Err(self.client.refused(&self.target, &answer)),
        }
    }

    /// What is in it; `None` when there is no such bucket.
    pub(crate) async fn holds(&self) -> Result<Option<Holds>, StorageError> {
        let mut found = Holds::Nothing;
        let looked = self.each_page("", |objects| {
            for object in objects {
                found = match object.key.starts_with(folders::OURS) {
                    true if found != Holds::Files => Holds::OnlyOurs,
                    _ => Holds::Files,
                };
            }
            found != Holds::Files
        });
        match looked.await {
            Ok(_) => Ok(Some(found)),
            Err(StorageError::NoBucket { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes every object whose name begins with `prefix`, except `but`.
    pub(crate) async fn delete_all(&self, prefix: &str, but: &str) -> Result<(), StorageError> {
        let names = self.names(prefix).await?;
        let names = names.into_iter().filter(|name| name != but);
        let (with_url, without): (Vec<String>, Vec<String>) = names.partition(|name| client::has_url(name));
        for some in without.chunks(AT_A_TIME) {
            self.delete_by_body(some).await?;
        }
        for some in with_url.chunks(AT_ONCE) {
            let mut deletions = JoinSet::new();
            for name in some {
                let (bucket, name) = (self.clone(), name.clone());
                deletions.spawn(async move { bucket.delete(&name).await });
            }
            while let Some(done) = deletions.join_next().await {
                done.map_err(|_| error::cut_off(&self.target))??;
            }
        }
        Ok(())
    }

    /// Deletes objects that no URL can name (`a/../b`): their names are in the body.
    async fn delete_by_body(&self, names: &[String]) -> Result<(), StorageError> {
        let mut body = "<Delete><Quiet>true</Quiet>".to_owned();
        for name in names {
            let name = name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            body.push_str(&format!("<Object><Key>{name}</Key></Object>"));
        }
        body.push_str("</Delete>");
        let sum = STANDARD.encode(Md5::digest(body.as_bytes()));
        let asked = Request::bucket(Method::POST)
            .query("delete", "")
            .header("content-md5", sum)
            .bytes(body.into_bytes());
        let answer = self.client.done(&self.target, asked).await?;
        // Some of them may be refused in an answer with a good status.
        match xml::error(&answer.body) {
            Some(_) => Err(self.client.refused(&self.target, &answer)),
            None if xml::is(&answer.body, "DeleteResult") => Ok(()),
            None => Err(error::no_s3(answer.status, &self.target)),
        }
    }

    /// Writes an object, reads it and deletes it: is the key good for more than a listing?
    pub(crate) async fn try_out(&self, key: &str) -> Result<(), StorageError> {
        let written = jiff::Timestamp::now().to_string().into_bytes();
        self.write_small(key, written.clone()).await?;
        if self.read_small(key).await? != Some(written) {
            return Err(error::misconfigured(
                &self.target,
                "an object was not read as it was written",
            ));
        }
        self.delete(key).await
    }

    /// Removes the bucket, which must be empty. One that is not there is fine.
    pub(crate) async fn remove(&self) -> Result<(), StorageError> {
        match self.client.done(&self.target, Request::bucket(Method::DELETE)).await {
            Ok(_) | Err(StorageError::NoBucket { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The names of all buckets that the key may see. For a `Bucket` without a name.
    pub(crate) async fn all(&self) -> Result<Vec<String>, StorageError> {
        let answer = self.client.done(&self.target, Request::bucket(Method::GET)).await?;
        buckets(&answer.body).ok_or_else(|| error::no_s3(answer.status, &self.target))
    }
}

fn buckets(body: &[u8]) -> Option<Vec<String>> {
    let document = Document::parse(std::str::from_utf8(body).ok()?).ok()?;
    let root = document.root_element();
    root.has_tag_name("ListAllMyBucketsResult").then(|| {
        let names = root.descendants().filter(|node| node.has_tag_name("Bucket"));
        names.filter_map(|bucket| xml::text(bucket, "Name")).collect()
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::Timeouts;
    use super::*;
    use crate::credentials;

    /// Asks a store whose answer to each listing is `listing`: what comes of `ask`, and the requests (line and body).
    async fn asked<T, F>(listing: &str, ask: impl FnOnce(Bucket) -> F) -> (T, Vec<String>)
    where
        F: Future<Output = T>,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let storage = credentials::Storage {
            bucket: "tenant-a".into(),
            endpoint: format!("http://{}", listener.local_addr().unwrap()),
            region: "auto".into(),
            access_key_id: "AKIDEXAMPLE".to_owned().into(),
            secret_access_key: "SECRETEXAMPLE".to_owned().into(),
        };
        let seen = std::sync::Mutex::new(vec![]);
        let serve = async {
            loop {
                let (mut connection, _) = listener.accept().await.unwrap();
                let mut text = String::new();
                let mut bytes = [0; 4096];
                // A request has its body whole when it has as much as it says.
                while !text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
                    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                    body.len() >= length.map_or(0, |length| length.parse().unwrap())
                }) {
                    let length = connection.read(&mut bytes).await.unwrap();
                    text.push_str(std::str::from_utf8(&bytes[..length]).unwrap());
                }
                let body = if text.starts_with("GET") {
                    listing
                } else {
                    "<DeleteResult/>"
                };
                let (line, sent) = (text.lines().next().unwrap(), text.split_once("\r\n\r\n").unwrap().1);
                seen.lock()
                    .unwrap()
                    .push(format!("{line} {sent}").trim_end().to_owned());
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
                connection.write_all(answer.as_bytes()).await.unwrap();
            }
        };
        let bucket = Bucket::connect(&storage, Timeouts::START).unwrap();
        let done = tokio::select! {
            done = ask(bucket) => done,
            () = serve => unreachable!(),
        };
        (done, seen.into_inner().unwrap())
    }

    fn listing(keys: &[&str]) -> String {
        let keys = keys.iter().map(|key| format!("<Contents><Key>{key}</Key></Contents>"));
        format!("<ListBucketResult>{}</ListBucketResult>", keys.collect::<String>())
    }

    /// A URL has no such segments: `tenant-a/../tenant-b/x` would be another bucket's object, `tenant-a/x/..` the bucket.
    #[tokio::test]
    async fn a_name_with_dot_segments_leads_to_no_other_bucket() {
        let keys = ["../tenant-b/x", ".", "x/..", "a/./b", "..", "good.md"];
        let (done, requests) = asked(&listing(&keys), |bucket| async move { bucket.delete_all("", "").await }).await;
        assert_eq!(done, Ok(()));
        let (single, several): (Vec<_>, Vec<_>) = requests[1..].iter().partition(|line| line.starts_with("DELETE"));
        assert_eq!(single, ["DELETE /tenant-a/good.md HTTP/1.1"]);
        let [several] = several[..] else { panic!("{several:?}") };
        assert!(
            several.starts_with("POST /tenant-a?delete= HTTP/1.1 <Delete"),
            "{several}"
        );
        for key in &keys[..5] {
            assert!(
                several.contains(&format!("<Object><Key>{key}</Key></Object>")),
                "{several}"
            );
        }
        for key in keys[..5].iter().chain(&[""]) {
            let (done, requests) = asked("", |bucket| async move { bucket.delete(key).await }).await;
            let error = done.unwrap_err();
            assert!(error.to_string().contains(&format!("{key:?}")), "{error}");
            assert_eq!(requests, Vec::<String>::new());
        }
        for key in ["a/.hidden", "a..b", "...", "%2e%2e/x", "a//b", "a/"] {
            let (done, requests) = asked("", |bucket| async move { bucket.delete(key).await }).await;
            assert_eq!((done, requests.len()), (Ok(()), 1), "{key}");
        }
    }

    #[tokio::test]
    async fn a_key_is_tried_by_writing_and_reading() {
        let (done, requests) = asked("something else", |bucket| async move { bucket.try_out("x").await }).await;
        assert!(done.unwrap_err().to_string().contains("not read as it was written"));
        assert!(requests[0].starts_with("PUT /tenant-a/x ") && requests[1].starts_with("GET /tenant-a/x "));
    }

    #[tokio::test]
    async fn a_listing_that_has_no_end_is_an_error() {
        for more in ["", "<NextContinuationToken>here</NextContinuationToken>"] {
            let page = format!("<ListBucketResult><IsTruncated>true</IsTruncated>{more}</ListBucketResult>");
            let (done, _) = asked(&page, |bucket| async move { bucket.holds().await }).await;
            assert_eq!(done.unwrap_err().exit(), crate::exit::Exit::Config, "{more}");
        }
    }

    #[test]
    fn the_list_of_buckets() {
        let body =
            b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListAllMyBucketsResult><Owner><ID>1</ID></Owner><Buckets>\
            <Bucket><Name>tenant-a</Name><CreationDate>2026-01-01T00:00:00Z</CreationDate></Bucket>\
            <Bucket><Name>other</Name></Bucket></Buckets></ListAllMyBucketsResult>";
        assert_eq!(buckets(body), Some(vec!["tenant-a".to_owned(), "other".to_owned()]));
        assert_eq!(buckets(b"<html></html>"), None);
    }
}
