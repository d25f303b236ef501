//! Buckets as a whole, for whoever makes and removes them (`tenant-provision`). A tenant's key must not be able to do this.

use reqwest::Method;
use roxmltree::Document;
use tokio::task::JoinSet;

use super::client::Request;
use super::{Bucket, StorageError, error, folders, xml};

/// Deletions at the same time.
const AT_ONCE: usize = 16;

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
        let answer = self.client.send(&self.target, Request::new(Method::PUT, "")).await?;
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
        let (mut found, mut next) = (Holds::Nothing, None);
        loop {
            let page = match self.page_after("", next).await {
                Ok(page) => page,
                Err(StorageError::NoBucket { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
            if page.objects.iter().any(|object| !object.key.starts_with(folders::OURS)) {
                return Ok(Some(Holds::Files));
            }
            if !page.objects.is_empty() {
                found = Holds::OnlyOurs;
            }
            next = page.next;
            if next.is_none() {
                return Ok(Some(found));
            }
        }
    }

    /// Deletes every object whose name begins with `prefix`, except `but`.
    pub(crate) async fn delete_all(&self, prefix: &str, but: &str) -> Result<(), StorageError> {
        let names = self.names(prefix).await?;
        let names: Vec<String> = names.into_iter().filter(|name| name != but).collect();
        for some in names.chunks(AT_ONCE) {
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

    /// Removes the bucket, which must be empty. One that is not there is fine.
    pub(crate) async fn remove(&self) -> Result<(), StorageError> {
        match self.client.done(&self.target, Request::new(Method::DELETE, "")).await {
            Ok(_) | Err(StorageError::NoBucket { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The names of all buckets that the key may see. For a `Bucket` without a name.
    pub(crate) async fn all(&self) -> Result<Vec<String>, StorageError> {
        let answer = self.client.done(&self.target, Request::new(Method::GET, "")).await?;
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
    use super::*;

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
