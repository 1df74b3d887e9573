// A browser: opens an address as somebody, keeps cookies, goes where it is sent, and sends forms as they are.
//
//   NODE_EXTRA_CA_CERTS=cert.pem node browser.mjs USER URL

const [user, start] = process.argv.slice(2);
const jar = new Map();
let url = new URL(start);
let form;
for (let step = 0; step < 20; step += 1) {
  const headers = { 'x-user': user, cookie: [...jar].map(([name, value]) => `${name}=${value}`).join('; ') };
  const method = form ? 'POST' : 'GET';
  const answer = await fetch(url, { headers, redirect: 'manual', method, body: form });
  form = undefined;
  for (const cookie of answer.headers.getSetCookie()) {
    const [pair] = cookie.split(';');
    const [name, ...value] = pair.split('=');
    if (value.join('=')) jar.set(name, value.join('=')); else jar.delete(name);
  }
  const text = await answer.text();
  const next = answer.headers.get('location');
  if (next) { url = new URL(next, url); continue; }
  // A page that asks whether it is really meant.
  const action = /<form[^>]*action="([^"]+)"/.exec(text);
  if (!action || !answer.ok) { console.log(answer.status, text.replace(/<[^>]+>/g, ' ').trim().slice(0, 200)); process.exit(answer.ok ? 0 : 1); }
  form = new URLSearchParams();
  for (const [field] of text.matchAll(/<input[^>]*>/g)) {
    const name = /name="([^"]+)"/.exec(field);
    if (name) form.append(name[1], (/value="([^"]*)"/.exec(field) ?? ['', ''])[1]);
  }
  if (/name="confirm"/.test(text)) form.set('confirm', 'yes');
  url = new URL(action[1].replaceAll('&amp;', '&'), url);
}
process.exit(2);
