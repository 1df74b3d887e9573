// A provider on loopback: npm's oidc-provider (certified for OpenID Connect), with logins that ask for nothing, and a small interface for contacts.
//
//   node provider.mjs MODULES FOLDER PORT
//
// FOLDER has key.pem, cert.pem and people.json: who is in whose contact list, {"alice": ["bob"]}; and perhaps settings.json: {"skew_secs": by how much its clock is
// ahead, "device_nonce": true}. Both are read anew each time. A browser says who logs in by the header X-User.

import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [modules, folder, port] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const { default: Provider } = await import(pathToFileURL(require.resolve('oidc-provider')).href);
const issuer = `https://localhost:${port}`;
const DEVICE = 'urn:ietf:params:oauth:grant-type:device_code';

const client = (client_id) => ({
  client_id,
  token_endpoint_auth_method: 'none',
  application_type: 'native',
  redirect_uris: ['http://127.0.0.1/callback'],
  grant_types: ['authorization_code', 'refresh_token', DEVICE],
  response_types: ['code'],
});

const settings = () => (existsSync(`${folder}/settings.json`) ? JSON.parse(readFileSync(`${folder}/settings.json`)) : {});
const clock = Date.now.bind(Date);
let skew = 0;
Date.now = () => clock() + skew * 1000;

// A provider that passes on what a device has asked for: the library keeps it with the request and leaves it out of the token.
async function deviceLoggedIn(ctx) {
  const code = ctx.oidc.deviceCode;
  if (settings().device_nonce) {
    code.nonce = code.params.nonce;
    await code.save();
  }
  ctx.body = 'You are logged in.';
}

const year = 365 * 86_400;
const provider = new Provider(issuer, {
  clients: [client('halloo'), client('game')],
  features: { devInteractions: { enabled: false }, deviceFlow: { enabled: true, successSource: deviceLoggedIn } },
  ttl: { RefreshToken: year, Grant: year },
  claims: { openid: ['sub'], email: ['email', 'email_verified'] },
  conformIdTokenClaims: false,
  cookies: { keys: ['of a test'] },
  interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
  findAccount: (_, id) => ({
    accountId: id,
    claims: async () => ({ sub: id, email: `${id}@id.test`, email_verified: id !== 'carol' }),
  }),
});

// Whoever comes is who they say, and agrees to everything.
async function interact(request, response) {
  const { prompt, params, session } = await provider.interactionDetails(request, response);
  const user = request.headers['x-user'];
  if (prompt.name === 'login') {
    return provider.interactionFinished(request, response, { login: { accountId: user } });
  }
  const grant = new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  grant.addOIDCScope(params.scope);
  const result = { consent: { grantId: await grant.save() } };
  return provider.interactionFinished(request, response, result, { mergeWithLastSubmission: true });
}

// Contacts, one on each page.
async function people(request, response) {
  const token = (request.headers.authorization ?? '').replace(/^Bearer /, '');
  const access = await provider.AccessToken.find(token);
  if (!access) return response.writeHead(401).end();
  const list = JSON.parse(readFileSync(`${folder}/people.json`))[access.accountId] ?? [];
  const page = Number(new URL(request.url, issuer).searchParams.get('page') ?? 0);
  const contacts = list.slice(page, page + 1).map((id) => ({ source: { subject: id }, displayName: `${id} of the provider` }));
  const next = page + 1 < list.length ? `${issuer}/people?page=${page + 1}` : undefined;
  const body = JSON.stringify({ contacts, next });
  const etag = `"${createHash('sha256').update(body).digest('hex')}"`;
  if (request.headers['if-none-match'] === etag) return response.writeHead(304).end();
  return response.writeHead(200, { 'content-type': 'application/json', etag }).end(body);
}

const callback = provider.callback();
createServer({ key: readFileSync(`${folder}/key.pem`), cert: readFileSync(`${folder}/cert.pem`) }, (request, response) => {
  skew = settings().skew_secs ?? 0;
  const failed = (error) => { console.error(error); response.writeHead(500).end(); };
  if (request.url.startsWith('/interaction/')) interact(request, response).catch(failed);
  else if (request.url.startsWith('/people')) people(request, response).catch(failed);
  else callback(request, response);
}).listen(port, '127.0.0.1');
