/** The service worker: keeps all files of the site, so that it works offline. `files.json` names them. */

const scope = self as unknown as ServiceWorkerGlobalScope;

scope.addEventListener("install", (event) => {
  const keep = async () => {
    const { version, files } = await (await fetch("files.json", { cache: "no-store" })).json();
    await (await caches.open(`pocketzoo-${scope.registration.scope}-${version}`)).addAll(files);
  };
  event.waitUntil(keep().then(() => scope.skipWaiting()));
});
scope.addEventListener("activate", (event) => event.waitUntil(scope.clients.claim()));
scope.addEventListener("fetch", (event) => {
  if (event.request.method !== "GET") return;
  const stored = caches.match(event.request, { ignoreSearch: true });
  event.respondWith(fetch(event.request).catch(async () => (await stored) ?? Response.error()));
});
