// What C++ has beside: overloads, and exceptions that go through the library.
#include "check.h"

#include <stdexcept>
#include <string>

static int throws(kstate_transaction_p transaction, void *page)
{
    *static_cast<unsigned char *>(page) = 9;
    throw std::runtime_error(kstate_get_transaction_name(transaction));
}

static int throws_with_data(kstate_transaction_p, void *, void *data)
{
    throw *static_cast<std::string *>(data);
}

int main()
{
    kstate_state_p state = fresh_state();
    commit_byte(state, 1);
    for (bool retry : {false, true}) {
        try {
            kstate_transaction_using_fn(state, throws, retry);
            return 1;
        } catch (const std::runtime_error &error) {
            CHECK(error.what() == std::string(kstate_get_state_name(state)));
        }
    }
    std::string data = "given up";
    try {
        kstate_transact(state, throws_with_data, &data, 0);
        return 1;
    } catch (const std::string &error) {
        CHECK(error == data);
    }
    CHECK_IS(newest_byte(state), 1);
    // The transactions were aborted, and nothing is held.
    kstate_transaction_p transaction = kstate_start_transaction(state);
    *static_cast<unsigned char *>(kstate_get_ptr(transaction)) = 2;
    CHECK_IS(kstate_commit(transaction), 0);
    const volatile unsigned char *live = static_cast<const volatile unsigned char *>(kstate_get_ptr(state));
    CHECK_IS(*live, 2);
    kstate_free_state(&state);
    return 0;
}
