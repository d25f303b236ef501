//! Databases and their tokens: the Turso Platform API (its OpenAPI description, version 0.1.0).

use reqwest::{Method, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::error::ProvisionError;
use super::http::{Answer, Service, Twice};
use super::settings::Settings;

/// The service, asked with the administrator's token.
pub(super) struct Turso {
    service: Service,
    token: SecretString,
    organization: String,
    group: String,
    scheme: String,
}

/// A database, as the API describes it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Database {
    #[serde(rename = "Name")]
    pub(super) name: String,
    /// Without a scheme.
    #[serde(rename = "Hostname")]
    hostname: String,
}

#[derive(Deserialize)]
struct One {
    database: Database,
}

#[derive(Deserialize)]
struct All {
    databases: Vec<Database>,
}

#[derive(Deserialize)]
struct Minted {
    jwt: SecretString,
}

impl Turso {
    pub(super) fn new(settings: &Settings) -> Result<Turso, ProvisionError> {
        Ok(Turso {
            service: Service::new(
                "the Turso Platform API",
                &settings.turso,
                "check TURSO_API_TOKEN and TURSO_ORGANIZATION: the token must be one of the organization's",
                [settings.token.clone(), String::new().into()],
            )?,
            token: settings.token.clone(),
            organization: settings.organization.clone(),
            group: settings.group.clone(),
            scheme: settings.scheme.clone(),
        })
    }

    /// All databases of the organization.
    pub(super) async fn databases(&self) -> Result<Vec<Database>, ProvisionError> {
        let what = "listing the databases";
        let answer = self.send(what, Method::GET, "", None).await?;
        Ok(self.read::<All>(what, &answer)?.databases)
    }

    /// The database `name`; `None` when there is none.
    pub(super) async fn database(&self, name: &str) -> Result<Option<Database>, ProvisionError> {
        let what = format!("looking for the database {name}");
        let answer = self.send(&what, Method::GET, &format!("/{name}"), None).await?;
        if answer.status == 404 {
            // Also the answer for an organization that is not there; its list tells the two apart.
            let all = self.databases().await?;
            return Ok(all.into_iter().find(|database| database.name == name));
        }
        Ok(Some(self.read::<One>(&what, &answer)?.database))
    }

    /// Makes a database, or finds it there already.
    pub(super) async fn create(&self, name: &str) -> Result<Database, ProvisionError> {
        let what = format!("making the database {name} in the group {}", self.group);
        let asked = json!({"name": name, "group": self.group});
        let answer = self.send(&what, Method::POST, "", Some(&asked)).await?;
        if answer.status == 409
            && let Some(found) = self.database(name).await?
        {
            return Ok(found);
        }
        Ok(self.read::<One>(&what, &answer)?.database)
    }

    /// A new token that reads and writes, and does not expire. The others stay as they are.
    pub(super) async fn mint(&self, name: &str) -> Result<SecretString, ProvisionError> {
        let what = format!("making a token for the database {name}");
        let path = format!("/{name}/auth/tokens?expiration=never&authorization=full-access");
        let answer = self.send(&what, Method::POST, &path, None).await?;
        Ok(self.read::<Minted>(&what, &answer)?.jwt)
    }

    /// Ends every token of the database.
    pub(super) async fn invalidate(&self, name: &str) -> Result<(), ProvisionError> {
        let what = format!("ending the tokens of the database {name}");
        let answer = self
            .send(&what, Method::POST, &format!("/{name}/auth/rotate"), None)
            .await?;
        if answer.is_good() {
            return Ok(());
        }
        Err(self.refused(&what, &answer))
    }

    /// Deletes the database. One that is not there is fine.
    pub(super) async fn delete(&self, name: &str) -> Result<(), ProvisionError> {
        let what = format!("deleting the database {name}");
        let answer = self.send(&what, Method::DELETE, &format!("/{name}"), None).await?;
        if answer.is_good() || answer.status == 404 {
            return Ok(());
        }
        Err(self.refused(&what, &answer))
    }

    /// What a bundle says of the database.
    pub(super) fn url(&self, database: &Database) -> String {
        format!("{}://{}", self.scheme, database.hostname)
    }

    fn read<T: DeserializeOwned>(&self, what: &str, answer: &Answer) -> Result<T, ProvisionError> {
        if !answer.is_good() {
            return Err(self.refused(what, answer));
        }
        serde_json::from_slice(&answer.body).map_err(|_| self.service.strange(what, "what its description promises"))
    }

    fn refused(&self, what: &str, answer: &Answer) -> ProvisionError {
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        // `error` is a text in the description; some errors have it one level below.
        let said = body["error"].as_str().or_else(|| body["error"]["message"].as_str());
        self.service.refused(what, answer, said)
    }

    async fn send(
        &self,
        what: &str,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, ProvisionError> {
        let path = format!("/v1/organizations/{}/databases{path}", self.organization);
        self.service
            .send(what, Twice::Harmless, || {
                let url = Url::parse(&self.service.url(&path)).map_err(|error| error.to_string())?;
                let request = self.service.client().request(method.clone(), url);
                let request = request.bearer_auth(self.token.expose_secret());
                let request = match body {
                    Some(body) => request.json(body),
                    None => request,
                };
                request.build().map_err(|error| error.without_url().to_string())
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers in the form of the API's description.
    #[test]
    fn the_answers_of_the_description_are_read() {
        let one: One = serde_json::from_str(
            r#"{"database": {"DbId": "0eb771dd-6906-11ee-8553-eaa7715aeaf2", "Hostname": "tenant-acme-org.turso.io",
                "Name": "tenant-acme"}}"#,
        )
        .unwrap();
        assert_eq!(one.database.hostname, "tenant-acme-org.turso.io");
        let all: All = serde_json::from_str(
            r#"{"databases": [{"Name": "my-db", "DbId": "0eb771dd", "Hostname": "my-db-org.turso.io",
                "block_reads": false, "block_writes": false, "regions": ["lhr"], "primaryRegion": "lhr", "type": "logical",
                "version": "0.22.22", "group": "default", "is_schema": false, "sleeping": false, "parent": null}]}"#,
        )
        .unwrap();
        assert_eq!(all.databases[0].name, "my-db");
        let minted: Minted = serde_json::from_str(r#"{"jwt": "a.b.c"}"#).unwrap();
        assert_eq!(minted.jwt.expose_secret(), "a.b.c");
        assert!(serde_json::from_str::<One>("{}").is_err());
    }
}
