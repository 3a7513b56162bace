/* The binary interface: a program that was compiled with this header runs with every library of this soname. What does not
 * hold here breaks such programs, and takes another soname. */
#include "check.h"

#ifdef __cplusplus
#define SAME(holds) static_assert(holds, #holds)
#include <type_traits>
#define IS_OF_TYPE(function, type) static_assert(std::is_same<decltype(&function), type>::value, #function)
#else
#define SAME(holds) _Static_assert(holds, #holds)
#define IS_OF_TYPE(function, type) _Static_assert(_Generic(&function, type: 1, default: 0), #function)
#endif

SAME(KSTATE_READ == 1 && KSTATE_WRITE == 2);
SAME(KSTATE_MAX_NAME_LEN == 247);
SAME(KSTATE_FOREVER == -1);
SAME(KSTATE_BEING_WRITTEN == 0xffffffffffffffffu);
SAME(KSTATE_OVERDUE == 1);
SAME(KSTATE_TRAP_BY_THREAD == 0 && KSTATE_TRAP_BY_SIGNAL == 1 && KSTATE_TRAP_KERNEL == 2 && KSTATE_TRAP_NOTHING == 3);

SAME(sizeof(enum kstate_permissions) == 4 && sizeof(kstate_permissions_t) == 4);
SAME(sizeof(kstate_state_p) == 8 && sizeof(kstate_transaction_p) == 8);
SAME(sizeof(struct kstate_snapshot) == 40);
SAME(offsetof(struct kstate_snapshot, generation) == 0);
SAME(offsetof(struct kstate_snapshot, age_ns) == 8);
SAME(offsetof(struct kstate_snapshot, length) == 16);
SAME(offsetof(struct kstate_snapshot, flags) == 20);
SAME(offsetof(struct kstate_snapshot, reserved) == 24);

typedef struct kstate_state *state;
typedef struct kstate_transaction *transaction;

typedef state (*makes_state)(void);
typedef void (*frees_state)(state *);
typedef int (*of_state)(state);
typedef const char *(*name_of_state)(state);
typedef uint32_t (*number_of_state)(state);
typedef uint64_t (*generation_of_state)(state);
typedef transaction (*makes_transaction)(void);
typedef void (*frees_transaction)(transaction *);
typedef int (*of_transaction)(transaction);
typedef const char *(*name_of_transaction)(transaction);
typedef uint32_t (*number_of_transaction)(transaction);

IS_OF_TYPE(kstate_new_state, makes_state);
IS_OF_TYPE(kstate_free_state, frees_state);
typedef int (*subscribes)(state, const char *, uint32_t);
IS_OF_TYPE(kstate_subscribe_state, subscribes);
typedef state (*subscribed)(const char *, uint32_t);
IS_OF_TYPE(kstate_subscribe, subscribed);
typedef void (*unsubscribes)(state);
IS_OF_TYPE(kstate_unsubscribe_state, unsubscribes);
typedef bool (*is_subscribed)(state);
IS_OF_TYPE(kstate_state_is_subscribed, is_subscribed);
IS_OF_TYPE(kstate_get_state_name, name_of_state);
IS_OF_TYPE(kstate_get_state_permissions, number_of_state);
IS_OF_TYPE(kstate_get_state_id, number_of_state);
typedef void *(*pointer_of_state)(state);
IS_OF_TYPE(kstate_get_state_ptr, pointer_of_state);
IS_OF_TYPE(kstate_get_ptr_generation, generation_of_state);
IS_OF_TYPE(kstate_get_generation, generation_of_state);
typedef int (*snapshots)(state, void *, size_t, struct kstate_snapshot *);
IS_OF_TYPE(kstate_take_snapshot, snapshots);
typedef int (*publishes)(state, const void *, size_t);
IS_OF_TYPE(kstate_publish, publishes);
typedef int (*sizes)(state, size_t);
IS_OF_TYPE(kstate_set_size, sizes);
typedef size_t (*size_of_state)(state);
IS_OF_TYPE(kstate_get_size, size_of_state);
typedef int (*with_path)(state, const char *);
IS_OF_TYPE(kstate_set_persistent, with_path);
typedef int (*with_time)(state, int64_t);
IS_OF_TYPE(kstate_set_durability, with_time);
IS_OF_TYPE(kstate_set_min_interval, with_time);
IS_OF_TYPE(kstate_sync, of_state);
IS_OF_TYPE(kstate_delete, of_state);
typedef int (*with_choice)(state, int);
IS_OF_TYPE(kstate_set_trapping, with_choice);
typedef int (*waits)(state, uint64_t, int64_t, uint64_t *);
IS_OF_TYPE(kstate_wait, waits);
typedef int (*interrupts)(state, bool);
IS_OF_TYPE(kstate_interrupt, interrupts);
IS_OF_TYPE(kstate_get_fd, of_state);

IS_OF_TYPE(kstate_new_transaction, makes_transaction);
IS_OF_TYPE(kstate_free_transaction, frees_transaction);
typedef int (*starts)(transaction, state, uint32_t);
#ifndef __cplusplus
IS_OF_TYPE(kstate_start_transaction, starts);
#endif
typedef transaction (*begins)(state);
IS_OF_TYPE(kstate_begin, begins);
IS_OF_TYPE(kstate_add_state, starts);
typedef void *(*pointer_of_transaction)(transaction);
IS_OF_TYPE(kstate_get_transaction_ptr, pointer_of_transaction);
typedef void *(*pointer_of_member)(transaction, state);
IS_OF_TYPE(kstate_get_member_ptr, pointer_of_member);
typedef ptrdiff_t (*length_of_member)(transaction, state);
IS_OF_TYPE(kstate_get_length, length_of_member);
typedef int (*sets_length)(transaction, state, size_t);
IS_OF_TYPE(kstate_set_length, sets_length);
IS_OF_TYPE(kstate_validate_transaction, of_transaction);
IS_OF_TYPE(kstate_abort_transaction, of_transaction);
IS_OF_TYPE(kstate_abort, of_transaction);
IS_OF_TYPE(kstate_commit_transaction, of_transaction);
IS_OF_TYPE(kstate_commit, of_transaction);
IS_OF_TYPE(kstate_commit_durable, of_transaction);
typedef bool (*is_active)(transaction);
IS_OF_TYPE(kstate_transaction_is_active, is_active);
IS_OF_TYPE(kstate_get_transaction_name, name_of_transaction);
IS_OF_TYPE(kstate_get_transaction_permissions, number_of_transaction);
IS_OF_TYPE(kstate_get_transaction_id, number_of_transaction);
typedef int (*by_function)(state, int (*)(transaction, void *), bool);
IS_OF_TYPE(kstate_transaction_using_fn, by_function);
typedef int (*by_function_with_data)(state, int (*)(transaction, void *, void *), void *, uint32_t);
IS_OF_TYPE(kstate_transact, by_function_with_data);

typedef char *(*names)(const char *);
IS_OF_TYPE(kstate_get_unique_name, names);
typedef void (*prints_state)(FILE *, const char *, state, bool);
IS_OF_TYPE(kstate_print_state, prints_state);
typedef void (*prints_transaction)(FILE *, const char *, transaction, bool);
IS_OF_TYPE(kstate_print_transaction, prints_transaction);
typedef const char *(*text_of_number)(int);
IS_OF_TYPE(kstate_strerror, text_of_number);
typedef const char *(*text)(void);
IS_OF_TYPE(kstate_last_error, text);
IS_OF_TYPE(kstate_version, text);
typedef int (*starts_daemon)(const char *);
IS_OF_TYPE(kstate_start_daemon, starts_daemon);

int main(void)
{
    /* What is asserted was when this was compiled. */
    return 0;
}
