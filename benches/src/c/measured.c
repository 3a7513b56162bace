/* What is measured, from C: each function does it `count` times, and says whether that worked. */
#include <kstate.h>

static kstate_state_p state;
static kstate_transaction_p transaction;
static uint64_t value;

int measured_open(const char *name, size_t size, int trapping)
{
    kstate_free_state(&state);
    kstate_free_transaction(&transaction);
    state = kstate_subscribe(name, KSTATE_READ | KSTATE_WRITE);
    transaction = kstate_new_transaction();
    if (state == NULL || transaction == NULL || kstate_set_trapping(state, trapping) != 0)
        return -1;
    return kstate_set_size(state, size);
}

int measured_commit(uint32_t count, size_t words)
{
    while (count--) {
        if (kstate_start_transaction(transaction, state, KSTATE_WRITE) != 0)
            return -1;
        volatile uint64_t *page = kstate_get_transaction_ptr(transaction);
        value++;
        for (size_t i = 0; i < words; i++)
            page[i] = value;
        if (kstate_commit_transaction(transaction) != 0)
            return -1;
    }
    return 0;
}

int measured_short(uint32_t count, size_t words)
{
    while (count--) {
        kstate_transaction_p own = kstate_start_transaction(state);
        volatile uint64_t *page = kstate_get_ptr(own);
        value++;
        for (size_t i = 0; i < words; i++)
            page[i] = value;
        if (kstate_commit(own) != 0)
            return -1;
    }
    return 0;
}

int measured_publish(uint32_t count, size_t words)
{
    uint64_t bytes[512] = {0};
    while (count--) {
        bytes[0] = ++value;
        if (kstate_publish(state, bytes, words * sizeof *bytes) != 0)
            return -1;
    }
    return 0;
}

int measured_snapshot(uint32_t count, size_t words)
{
    volatile uint64_t bytes[512];
    (void)words;
    while (count--) {
        if (kstate_take_snapshot(state, (void *)bytes, sizeof bytes, NULL) != 0)
            return -1;
    }
    return 0;
}
