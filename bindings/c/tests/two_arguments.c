/* Does not compile: a transaction is started with one argument, or with three. */
#include "check.h"

int main(void)
{
    kstate_state_p state = fresh_state();
    kstate_transaction_p transaction = kstate_new_transaction();
    return kstate_start_transaction(transaction, state) == 0;
}
