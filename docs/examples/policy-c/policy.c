/* A routing policy in C, without a library: the caller's own zone, then the rest of the region.
 *
 * This is what sdk-wasm/wit/routing-policy.wit looks like after the canonical ABI of the component model: lists and strings
 * are a pointer and a count, records lie in memory as C structs do, and what does not fit into registers goes by pointer.
 * docs/policies.md says how to build it. */

#include <stddef.h>
#include <stdint.h>

#define INTERFACE "meridian:policy/routing@1.0.0"
#define EXPORT(name) __attribute__((export_name(name)))
#define IMPORT(name) __attribute__((import_module("[export]" INTERFACE), import_name(name)))

/* The host keeps a table of what this module exports as resources: `new` puts a pointer in, and calls come back with it. */
IMPORT("[resource-new]router") uint32_t new_router(const void *router);
IMPORT("[resource-new]view") uint32_t new_view(const void *view);

/* ---- the records of the contract ---- */

typedef struct { const char *at; uint32_t len; } string;
typedef struct { const void *at; uint32_t len; } list;

enum status { HEALTHY, UNHEALTHY, STARTING, DRAINING };

typedef struct {
  string id, zone, version, group, protocol;
  uint32_t weight;
  struct { uint8_t is_some; uint64_t value; } capacity;
  uint8_t status, degraded;
  list tags, metadata, extra;
} endpoint;

typedef struct {
  string config;
  struct {
    string namespace, name, region;
    list draining_zones;
    uint32_t ramp;
    list endpoints, remotes, extra;
  } service;
} open_arguments;

typedef struct { uint8_t is_remote; uint32_t endpoint_or_remote; struct { uint8_t is_some; uint32_t value; } subset; uint32_t weight; } choice;
typedef struct { struct { choice *at; uint32_t len; } choices; string reason; } tier;
typedef struct { uint32_t share; struct { tier *at; uint32_t len; } tiers; } plan;
typedef struct { plan *at; uint32_t len; } plans;

/* result<router, string> and result<view, string> */
typedef struct { uint8_t is_error; union { uint32_t handle; string refusal; }; } opened;

_Static_assert(sizeof(endpoint) == 96 && offsetof(endpoint, status) == 64, "as the host writes it");
_Static_assert(offsetof(open_arguments, service.endpoints) == 44, "as the host writes it");
_Static_assert(sizeof(choice) == 20 && sizeof(tier) == 16 && sizeof(plan) == 12, "as the host reads it");

/* ---- memory ---- */

/* Nothing is given back: a gateway drops an instance together with everything that it has opened in it. */
static void *allocate(uint32_t align, uint32_t size) {
  extern unsigned char __heap_base;
  static uintptr_t end;
  if (end == 0) end = (uintptr_t)&__heap_base;
  uintptr_t at = (end + align - 1) & ~(uintptr_t)(align - 1);
  uintptr_t room = __builtin_wasm_memory_size(0) * 65536;
  if (at + size < at) __builtin_trap();
  end = at + size;
  if (end > room && __builtin_wasm_memory_grow(0, (end - room + 65535) / 65536) == (size_t)-1) __builtin_trap();
  return (void *)at;
}

/* The host asks for room for what it passes in. It never asks for more of what it has. */
EXPORT("cabi_realloc") void *cabi_realloc(void *old, uint32_t old_size, uint32_t align, uint32_t size) {
  (void)old, (void)old_size;
  return allocate(align, size);
}

/* ---- the policy ---- */

typedef struct { const endpoint *endpoints; uint32_t count; } router;

static int equal(string a, string b) {
  if (a.len != b.len) return 0;
  for (uint32_t n = 0; n < a.len; n++)
    if (a.at[n] != b.at[n]) return 0;
  return 1;
}

#define TEXT(literal) ((string){literal, sizeof(literal) - 1})

static opened *answer(opened what) {
  static opened last;
  last = what;
  return &last;
}

/* Once for each change of the service. Strings of the arguments are ours from here on. */
EXPORT(INTERFACE "#[static]router.open") opened *router_open(const open_arguments *arguments) {
  string config = arguments->config;
  if (config.len != 0 && !equal(config, TEXT("{}")))
    return answer((opened){.is_error = 1, .refusal = TEXT("config: this policy takes none")});
  router *self = allocate(_Alignof(router), sizeof(router));
  self->endpoints = arguments->service.endpoints.at;
  self->count = arguments->service.endpoints.len;
  return answer((opened){.handle = new_router(self)});
}

/* The healthy endpoints that are in the zone, or those that are not. */
static tier in_zone(const router *self, string zone, int wanted, string reason) {
  tier made = {{allocate(_Alignof(choice), self->count * sizeof(choice)), 0}, reason};
  for (uint32_t n = 0; n < self->count; n++) {
    const endpoint *of = &self->endpoints[n];
    if (of->status != HEALTHY || equal(of->zone, zone) != wanted) continue;
    choice *to = &made.choices.at[made.choices.len++];
    to->is_remote = 0;
    to->endpoint_or_remote = n;
    to->weight = of->weight;
  }
  return made;
}

/* Once for each distinct caller. The plan is made here, so that lookups find it ready. Here strings and lists come in
 * registers, which C passes so only one by one. */
EXPORT(INTERFACE "#[method]router.admit")
opened *router_admit(const router *self, const char *region, uint32_t region_len, const char *zone, uint32_t zone_len,
                     const void *labels, uint32_t labels_len) {
  (void)region, (void)region_len, (void)labels, (void)labels_len;
  tier *tiers = allocate(_Alignof(tier), 2 * sizeof(tier));
  tiers[0] = in_zone(self, (string){zone, zone_len}, 1, TEXT("own zone"));
  tiers[1] = in_zone(self, (string){zone, zone_len}, 0, TEXT("the region"));
  plan *only = allocate(_Alignof(plan), sizeof(plan));
  only->share = 10000;
  only->tiers.at = tiers;
  only->tiers.len = 2;
  return answer((opened){.handle = new_view(only)});
}

EXPORT(INTERFACE "#[method]view.plans") plans *view_plans(plan *self) {
  static plans all;
  all.at = self;
  all.len = 1;
  return &all;
}

/* At every lookup. With one plan there is nothing to choose. */
EXPORT(INTERFACE "#[method]view.route") uint32_t view_route(const plan *self, uint64_t key, uint64_t entropy) {
  (void)self, (void)key, (void)entropy;
  return 0;
}
