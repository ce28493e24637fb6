/** The service worker: keeps all files of the site, so that it works without a network.
 *
 * `zoo export` writes the definition of SITE before this program, so that the file changes with each export.
 */

export {}; // a module for TypeScript

declare const SITE: { version: string; files: string[] };

const scope = self as unknown as ServiceWorkerGlobalScope;
const prefix = `pocketzoo-${scope.registration.scope}-`;
const current = prefix + SITE.version;
const UNCHANGING = /\/(models|onnxruntime-web-[^/]*)\/[^/]*$/; // files whose names change with their content

scope.addEventListener("install", (event) => {
  const keep = async () => {
    const cache = await caches.open(current);
    const mode = (file: string) => (UNCHANGING.test(`/${file}`) ? "default" : "no-cache");
    await cache.addAll(SITE.files.map((file) => new Request(file, { cache: mode(file) })));
    await scope.skipWaiting();
  };
  event.waitUntil(keep());
});

scope.addEventListener("activate", (event) => {
  const replace = async () => {
    const old = (await caches.keys()).filter((key) => key.startsWith(prefix) && key !== current);
    await Promise.all(old.map((key) => caches.delete(key)));
    await scope.clients.claim();
  };
  event.waitUntil(replace());
});

scope.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method === "GET" && request.url.startsWith(scope.registration.scope)) event.respondWith(reply(request));
});

/** Large files come from the cache, others from the network if there is one, so that a new export is seen at once. */
async function reply(request: Request): Promise<Response> {
  const stored = await (await caches.open(current)).match(request, { ignoreSearch: true });
  if (stored && UNCHANGING.test(new URL(request.url).pathname)) return stored;
  try {
    return await fetch(request.url, { cache: "no-cache" });
  } catch {
    return stored ?? Response.error();
  }
}
