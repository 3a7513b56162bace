/* The short spellings, and transactions by a function. */
#include "check.h"

static void a_program_of_a_few_lines(void)
{
    char *name = fresh_name();
    kstate_state_p state = kstate_subscribe(name, KSTATE_READ | KSTATE_WRITE);
    CHECK(state != NULL);
    const volatile int *live = (const volatile int *)kstate_get_ptr(state);
    for (int i = 1; i <= 10; i++) {
        kstate_transaction_p transaction = kstate_start_transaction(state);
        CHECK(transaction != NULL);
        int *page = (int *)kstate_get_ptr(transaction);
        page[0] += 1;
        CHECK_IS(kstate_commit(transaction), 0);
        CHECK_IS(*live, i);
        /* It has gone with its end, and says so. */
        CHECK_IS(kstate_commit(transaction), -EINVAL);
        CHECK(!kstate_transaction_is_active(transaction));
        CHECK_IS(kstate_get_transaction_id(transaction), 0);
        kstate_free_transaction(&transaction);
        CHECK(transaction == NULL);
    }
    kstate_transaction_p transaction = kstate_start_transaction(state);
    *(int *)kstate_get_ptr(transaction) = 77;
    CHECK_IS(kstate_abort(transaction), 0);
    CHECK_IS(kstate_abort(transaction), -EINVAL);
    CHECK_IS(*live, 10);
    kstate_free_state(&state);
    free(name);
}

static void all_spellings_serve_all_handles(void)
{
    kstate_state_p state = fresh_state();
    /* Three arguments, and an end by the short spelling: the handle stays. */
    kstate_transaction_p transaction = kstate_new_transaction();
    CHECK_IS(kstate_start_transaction(transaction, state, KSTATE_WRITE), 0);
    CHECK(kstate_get_ptr(transaction) == kstate_get_transaction_ptr(transaction));
    CHECK_IS(kstate_commit(transaction), 0);
    CHECK(kstate_get_transaction_id(transaction) != 0);
    CHECK_IS(kstate_start_transaction(transaction, state, KSTATE_WRITE), 0);
    CHECK_IS(kstate_abort(transaction), 0);
    CHECK(kstate_get_transaction_id(transaction) != 0);
    kstate_free_transaction(&transaction);
    /* One argument, and an end by the long spelling: it stays to be freed. */
    transaction = kstate_start_transaction(state);
    CHECK_IS(kstate_commit_transaction(transaction), 0);
    CHECK(kstate_get_transaction_id(transaction) != 0);
    kstate_free_transaction(&transaction);
    CHECK(kstate_start_transaction((kstate_state_p)NULL) == NULL);
    CHECK_IS(errno, EINVAL);
    /* The function is there for who has it by its address. */
    int (*start)(kstate_transaction_p, kstate_state_p, uint32_t) = &kstate_start_transaction;
    CHECK_IS(start(NULL, state, KSTATE_READ), -EINVAL);
    kstate_free_state(&state);
}

static void subscribing_for_reading_makes_a_state(void)
{
    char *name = fresh_name();
    kstate_state_p reader = kstate_subscribe(name, KSTATE_READ);
    CHECK(reader != NULL);
    CHECK_IS(kstate_get_state_permissions(reader), KSTATE_READ);
    kstate_transaction_p transaction = kstate_start_transaction(reader);
    CHECK(transaction != NULL);
    CHECK_IS(kstate_get_transaction_permissions(transaction), KSTATE_READ);
    /* Of a transaction for reading nothing is committed; it stays active. */
    CHECK_IS(kstate_commit(transaction), -EPERM);
    CHECK(kstate_transaction_is_active(transaction));
    CHECK_IS(kstate_abort(transaction), 0);
    kstate_free_state(&reader);
    CHECK(kstate_subscribe("not legal", KSTATE_READ) == NULL);
    CHECK_IS(errno, EINVAL);
    CHECK(kstate_subscribe(name, 0) == NULL);
    CHECK_IS(errno, EINVAL);
    free(name);
}

static int calls;
static kstate_state_p disturbed;

static int add_one(kstate_transaction_p transaction, void *ptr)
{
    calls++;
    CHECK(ptr == kstate_get_transaction_ptr(transaction));
    *(unsigned char *)ptr = (unsigned char)(*(unsigned char *)ptr + 1);
    return 0;
}

static unsigned char disturbance = 100;

/* As long as somebody else is first, with a value that is another one each time. */
static int add_one_disturbed(kstate_transaction_p transaction, void *ptr)
{
    if (calls < 5)
        commit_byte(disturbed, ++disturbance);
    return add_one(transaction, ptr);
}

static int give_up(kstate_transaction_p transaction, void *ptr)
{
    (void)transaction;
    *(unsigned char *)ptr = 99;
    return -42;
}

static int end_it(kstate_transaction_p transaction, void *ptr)
{
    (void)ptr;
    return kstate_abort_transaction(transaction);
}

static int add_data(kstate_transaction_p transaction, void *ptr, void *data)
{
    (void)transaction;
    *(unsigned char *)ptr = (unsigned char)(*(unsigned char *)ptr + *(int *)data);
    return 0;
}

static int only_look(kstate_transaction_p transaction, void *ptr)
{
    (void)transaction;
    return *(unsigned char *)ptr == 255 ? 1 : 0;
}

static void transactions_by_a_function(void)
{
    kstate_state_p state = fresh_state();
    disturbed = another(state, KSTATE_WRITE);
    CHECK_IS(kstate_transaction_using_fn(state, add_one, false), 0);
    CHECK_IS(newest_byte(state), 1);
    CHECK_IS(calls, 1);

    calls = 0;
    CHECK_IS(kstate_transaction_using_fn(state, add_one_disturbed, false), -EPERM);
    CHECK_IS(newest_byte(state), 101);
    calls = 0;
    CHECK_IS(kstate_transaction_using_fn(state, add_one_disturbed, true), 0);
    CHECK_IS(calls, 6);
    CHECK_IS(disturbance, 106);
    CHECK_IS(newest_byte(state), 107);

    CHECK_IS(kstate_transaction_using_fn(state, give_up, true), -42);
    CHECK_IS(kstate_transaction_using_fn(state, end_it, true), -EINVAL);
    CHECK_IS(kstate_transaction_using_fn(state, NULL, true), -EINVAL);
    CHECK_IS(kstate_transaction_using_fn(NULL, add_one, true), -EINVAL);
    CHECK_IS(newest_byte(state), 107);

    int data = 7;
    CHECK_IS(kstate_transact(state, add_data, &data, 0), 0);
    CHECK_IS(kstate_transact(state, NULL, &data, 0), -EINVAL);
    CHECK_IS(newest_byte(state), 114);

    kstate_state_p reader = another(state, KSTATE_READ);
    CHECK_IS(kstate_transaction_using_fn(reader, only_look, true), 0);
    kstate_free_state(&reader);
    kstate_free_state(&disturbed);
    kstate_free_state(&state);
}

/* Two writers that do nothing else: none of it is lost. */
static void nothing_is_lost_between_processes(void)
{
    enum { WRITERS = 3, ROUNDS = 300 };
    kstate_state_p state = fresh_state();
    CHECK_IS(kstate_set_size(state, 8), 0);
    pid_t children[WRITERS];
    for (int i = 0; i < WRITERS; i++) {
        children[i] = forked();
        if (children[i] == 0) {
            int one = 1;
            for (int round = 0; round < ROUNDS; round++) {
                kstate_transaction_p transaction;
                do {
                    transaction = kstate_start_transaction(state);
                    if (transaction == NULL)
                        _exit(1);
                    uint64_t *page = (uint64_t *)kstate_get_ptr(transaction);
                    *page += (uint64_t)one;
                } while (kstate_commit(transaction) == -EPERM);
            }
            _exit(0);
        }
    }
    for (int i = 0; i < WRITERS; i++) {
        int status = 0;
        CHECK(waitpid(children[i], &status, 0) == children[i]);
        CHECK_IS(status, 0);
    }
    uint64_t counted = 0;
    CHECK_IS(kstate_take_snapshot(state, &counted, sizeof counted, NULL), 0);
    CHECK_IS(counted, WRITERS * ROUNDS);
    kstate_free_state(&state);
}

int main(void)
{
    a_program_of_a_few_lines();
    all_spellings_serve_all_handles();
    subscribing_for_reading_makes_a_state();
    transactions_by_a_function();
    nothing_is_lost_between_processes();
    return 0;
}
